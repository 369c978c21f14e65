"""What the weights connect: input-invariant connections, the strongest of all, never as a dense matrix."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs import Difference, Token
from tl_transcoders.circuits.nodes import Feature
from tl_transcoders.circuits.weights.best import Best, Sign, blocks
from tl_transcoders.circuits.weights.checks import Per, check_options
from tl_transcoders.circuits.weights.ends import Source, Target, member
from tl_transcoders.circuits.weights.stream import Stream
from tl_transcoders.circuits.weights.via import Step, Via
from tl_transcoders.circuits.weights.way import Way
from tl_transcoders.splice import Spliced

if TYPE_CHECKING:
    import pandas

MEMORY: Final = 1 << 28


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Connections:
    """Connections from sources to targets by one way, the strongest first (of every source or target, where asked for so).

    `source[i]` and `target[i]` number features or tokens of the two ends; of an end that is a single one, 0.
    """

    of: Source
    to: Target
    via: tuple[Step, ...]
    source: Int[Tensor, " n"]
    target: Int[Tensor, " n"]
    value: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[tuple[Feature | Token, Feature | Token | Difference, float]]:
        rows = zip(self.source.tolist(), self.target.tolist(), self.value.tolist(), strict=True)
        for s, t, value in rows:
            source = member(self.of, s)
            assert isinstance(source, Feature | Token)
            yield source, member(self.to, t), value

    @property
    def pairs(self) -> set[tuple[int, int]]:
        """The pairs of source and target, without their values: those of two ways, or of means, can be compared."""
        return set(zip(self.source.tolist(), self.target.tolist(), strict=True))

    def to_pandas(self) -> "pandas.DataFrame":
        """A table `source target value` of numbers."""
        from pandas import DataFrame

        columns = {"source": self.source, "target": self.target, "value": self.value}
        return DataFrame({name: column.cpu().numpy() for name, column in columns.items()})


@torch.no_grad()
def connections(
    spliced: Spliced,
    *,
    source: Source,
    target: Target,
    k: int = 20,
    via: Via = "residual",
    sign: Sign = "both",
    per: Per = "all",
    memory: int = MEMORY,
) -> Connections:
    """The k strongest connections between a source and a target that hold on every input.

        value[s, t] = w_s · N r_t             straight through the residual stream
        value[s, t] = w_s · N W_V W_O N r_t   through a head, and so on through several

    w_s is what s writes at activation 1, r_t what t reads with (an encoder, or an unembedding less the mean of
    all), N what a norm multiplies with and subtracts. What norms divide by, and how much a head attends, depend on
    the input: `contributions` and `mean_connections` bring them in. Post-norms' gains are in w_s. A cross-layer
    feature writes the sum of its decoders before the way begins. De-embeddings are connections from `Embed()`,
    logit effects are connections to `Logits()`.

    **Arguments:**

    - `source`: `Features(layer)`, a `Feature`, `Embed()` for the embeddings of all tokens, or one `Token`.
    - `target`: `Features(layer)`, a `Feature`, `Logits()` for all tokens, a `Token`, or a `Difference`.
    - `via`: `"residual"`, a `Head`, a `Skip` (the skip connection of a layer), or several of these in order.
    - `sign`: `"both"` ranks by |value|; `"positive"` and `"negative"` keep to one side.
    - `per`: whether k are kept of `"all"`, of every `"source"`, or of every `"target"`.
    - `memory`: bytes a block of values may take.

    Source: Dunefsky et al. 2024, Transcoders find interpretable LLM feature circuits, section 4.

    **Raises:** ConfigError for a layer that is not spliced, features, heads or tokens that are not there, a k
    below 1, or a target that reads before its source has written.

    ```python
    connections(spliced, source=Features(3), target=Feature(5, 1207), k=10)
    connections(spliced, source=Embed(), target=Feature(5, 1207), via=Head(4, 2))
    ```
    """
    check_options("connections", k=k, memory=memory, sign=sign, per=per)
    way = Way.of(Stream(spliced), source, target, via)
    return strongest(way, k=k, sign=sign, per=per, memory=memory)


def strongest(
    way: Way, *, k: int, sign: Sign = "both", per: Per = "all", memory: int = MEMORY
) -> Connections:
    """The k strongest connections of a way."""
    n_source, n_target = way.n_source, way.n_target
    groups, others = {
        "all": (1, n_source * n_target),
        "source": (n_source, n_target),
        "target": (n_target, n_source),
    }[per]
    best = Best(groups, min(k, others), sign, way.read.rows.new_empty(0, dtype=way.dtype))
    per_block = max(1, memory // way.dtype.itemsize)
    for targets in blocks(n_target, per_block, n_source):
        readers = way.reads(targets)
        for sources in blocks(n_source, per_block, len(readers)):
            value = way.writes(sources) @ readers.T
            _offer(best, per, value, sources, targets, n_target)
    group, number, value = best.found()
    match per:
        case "all":
            s, t = number // n_target, number % n_target
        case "source":
            s, t = group, number
        case "target":
            s, t = number, group
    return Connections(of=way.source, to=way.target, via=way.steps, source=s, target=t, value=value)


def _offer(
    best: Best, per: Per, value: Tensor, sources: slice, targets: slice, n_target: int
) -> None:
    s = torch.arange(sources.start, sources.stop, device=value.device)
    t = torch.arange(targets.start, targets.stop, device=value.device)
    match per:
        case "all":
            numbers = s[:, None] * n_target + t
            best.offer(slice(None), value.reshape(1, -1), numbers.reshape(1, -1))
        case "source":
            best.offer(sources, value, t[None])
        case "target":
            best.offer(targets, value.T, s[None])
