"""The strongest paths into a target, step by step downwards, every step exact."""

from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.gap import check_gap
from tl_transcoders.circuits.graphs.outcomes import Asked, Target
from tl_transcoders.circuits.nodes import Error, Feature, Mlp
from tl_transcoders.circuits.one_prompt import Prompt, run_of_one
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.circuits.weights.checks import check_word
from tl_transcoders.circuits.weights.match import Match
from tl_transcoders.circuits.weights.paths import Account, Passed, Path, Paths
from tl_transcoders.circuits.weights.reading import PathNode, Reading, RunReader, Terms
from tl_transcoders.circuits.weights.roots import root
from tl_transcoders.splice import Spliced

Rank = Literal["capped", "raw"]
RANKS: Final = ("capped", "raw")


@torch.no_grad()
def greedy_paths(
    spliced: Spliced,
    prompt: Prompt,
    *,
    target: Target,
    depth: int = 2,
    branches: int = 5,
    among: Match | None = None,
    rank: Rank = "capped",
) -> Paths:
    """The strongest paths into a target: those of n + 1 steps are the best continuations of the best of n steps.

    Every step splits what its node reads of the residual stream, with the run's own norm scales and patterns, into
    what features, heads, skip connections, embeddings, errors, whole MLPs and biases wrote: the terms sum to the value
    of the node, and are in units of the target. Paths go on from features, heads and skips, and end at the rest.

    **Arguments:**

    - `target`: a token (id or text), a pair of them, `Token`, `Difference`, or a `Feature` with a position.
    - `depth`: the largest number of steps; `branches`: how many paths are kept of every length.
    - `among`: which nodes paths may pass.
    - `rank`: what is largest, by magnitude. `"capped"` counts no contribution to a feature as more than what that feature
      contributes (which it would lose, if it were switched off); `"raw"` counts it whole.

    Source: Dunefsky et al. 2024, Transcoders find interpretable LLM feature circuits, algorithm 1.

    **Raises:** as `attribution_graph`; ConfigError for a depth or branches below 1; SpliceError where terms do not
    sum to the value of their node.

    ```python
    paths = greedy_paths(spliced, "The capital of France is", target=" Paris", depth=3, branches=10)
    print(paths)
    ```
    """
    check_sizes("greedy_paths", depth=depth, branches=branches)
    check_word("greedy_paths", "rank", rank, RANKS)
    run = run_of_one(spliced, prompt, "greedy_paths")
    frame = Frame.of(run)
    search = GreedySearch(RunReader(frame), branches, among, rank)
    return search.run(root(frame, Asked(run, "greedy_paths, target").node(target)), depth)


@final
@dataclass(frozen=True, slots=True)
class Tip:
    """A path, and how its first node reads; None where it cannot go on."""

    path: Path
    reading: Reading | None


@final
class GreedySearch:
    """A greedy search through one run."""

    def __init__(self, reader: RunReader, branches: int, among: Match | None, rank: Rank) -> None:
        self._reader, self._branches, self._among, self._rank = reader, branches, among, rank
        self._terms: dict[tuple[PathNode, ...], tuple[Terms, float]] = {}
        self._gap = 0.0

    def run(self, root: Reading, depth: int) -> Paths:
        """Paths of up to `depth` steps."""
        levels: list[tuple[Tip, ...]] = [
            (Tip(Path((Passed(root.node, root.value, root.value),)), root),)
        ]
        for _ in range(depth):
            longer = [tip for path in levels[-1] for tip in self._continued(path)]
            longer.sort(key=lambda tip: -abs(self._size(tip.path)))
            levels.append(tuple(longer[: self._branches]))
        return Paths(
            levels=tuple(tuple(tip.path for tip in level) for level in levels),
            accounts=self._accounts([tip for level in levels[1:] for tip in level]),
            gap=self._gap,
        )

    def _size(self, path: Path) -> float:
        return path.capped if self._rank == "capped" else path.value

    def _continued(self, tip: Tip) -> list[Tip]:
        if tip.reading is None:
            return []
        terms = self._reader.terms(tip.reading)
        self._check_sum(terms, tip.reading)
        self._terms[tip.path.nodes] = terms, tip.reading.value
        capped = _capped(terms.value, tip.path)
        size = (capped if self._rank == "capped" else terms.value).abs()
        if self._among is not None:
            size = size.masked_fill(~self._among.mask(terms.rows), 0)
        best = size.topk(min(self._branches, len(size))).indices
        return [
            self._followed(tip, terms.rows[i], float(terms.value[i]), float(capped[i]))
            for i in best[size[best] > 0]
        ]

    def _followed(self, tip: Tip, row: Int[Tensor, "4"], value: float, capped: float) -> Tip:
        assert tip.reading is not None
        found = self._reader.follow(tip.reading, row, value)
        reading, node = (found, found.node) if isinstance(found, Reading) else (None, found)
        return Tip(Path((Passed(node, value, capped), *tip.path.passed)), reading)

    def _check_sum(self, terms: Terms, reading: Reading) -> None:
        total = float(terms.value.sum()) + terms.bias
        size = float(terms.value.abs().sum()) + abs(terms.bias)
        # A direction that meets nothing of a large stream reads its rounding.
        x, vector = self._reader.stream(reading), reading.vector
        rounding = 8 * torch.finfo(x.dtype).eps * float(x.norm() * vector.norm())
        gap = max(abs(total - reading.value) - rounding, 0.0) / max(size, 1e-30)
        self._gap = max(self._gap, gap)
        check_gap(f"greedy_paths, {reading.node}", gap, *self._reader.frame.dtypes)

    def _accounts(self, kept: list[Tip]) -> dict[tuple[PathNode, ...], Account]:
        return {
            nodes: _account(nodes, terms, value, kept)
            for nodes, (terms, value) in self._terms.items()
        }


def _account(nodes: tuple[PathNode, ...], terms: Terms, value: float, kept: list[Tip]) -> Account:
    going_on = [tip.path for tip in kept if tip.path.nodes[1:] == nodes]
    ends = sum((path.value for path in going_on if _unexplained(path.nodes[0])), start=0.0)
    total = sum((path.value for path in going_on), start=0.0)
    errors = terms.total("error", "mlp") - ends
    return Account(
        value=value,
        kept=total,
        bias=terms.bias,
        errors=errors,
        left_out=float(terms.value.sum()) - total - errors,
    )


def _unexplained(node: PathNode) -> bool:
    return isinstance(node, Error | Mlp)


def _capped(value: Float[Tensor, " n"], path: Path) -> Float[Tensor, " n"]:
    """No contribution to a feature is more than that feature's own, by every feature on the way to the target."""
    for step in path.passed:
        if isinstance(step.node, Feature) and step.value:
            value = torch.where(value / step.value > 1, torch.full_like(value, step.value), value)
    return value
