"""What fires times what the weights connect: the effects of one way on one prompt, exactly."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs import Difference, Token
from tl_transcoders.circuits.nodes import Embed, Feature
from tl_transcoders.circuits.one_prompt import Prompt, run_of_one
from tl_transcoders.circuits.weights.best import Best, Sign
from tl_transcoders.circuits.weights.checks import check_options
from tl_transcoders.circuits.weights.ends import Features, Source, Target, member
from tl_transcoders.circuits.weights.firing import Firing, firing
from tl_transcoders.circuits.weights.kernel import kernel, read_scale, write_scale
from tl_transcoders.circuits.weights.stream import Stream, WrittenRows
from tl_transcoders.circuits.weights.via import Step, Via
from tl_transcoders.circuits.weights.way import Way
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run

WritingNode = Feature | Embed
ReadingNode = Feature | Token | Difference


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contributions:
    """What sources contribute to the pre-activations (or logits) of targets by one way, the strongest first.

    `source_pos`, `source` and `target_pos`, `target` number positions and features (or tokens) of the two ends.
    """

    of: Source
    to: Target
    via: tuple[Step, ...]
    source_pos: Int[Tensor, " n"]
    source: Int[Tensor, " n"]
    target_pos: Int[Tensor, " n"]
    target: Int[Tensor, " n"]
    value: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[tuple[WritingNode, ReadingNode, float]]:
        columns = (self.source_pos, self.source, self.target_pos, self.target, self.value)
        for q, s, p, t, value in zip(*(column.tolist() for column in columns), strict=True):
            source, target = member(self.of, int(s)), member(self.to, int(t))
            writer = (
                Feature(source.layer, source.index, q) if isinstance(source, Feature) else Embed(q)
            )
            match target:
                case Feature(layer, index):
                    yield writer, Feature(layer, index, p), value
                case Token(token):
                    yield writer, Token(token, p), value
                case Difference(good, bad):
                    yield writer, Difference(good, bad, p), value


@torch.no_grad()
def contributions(
    spliced: Spliced,
    prompt: Prompt,
    *,
    source: Source,
    target: Target,
    k: int = 20,
    via: Via = "residual",
    sign: Sign = "both",
    memory: int = 1 << 28,
) -> Contributions:
    """The k strongest effects by one way on a prompt: what fires there times what the weights connect.

        value[s@q → t@p] = activation[s@q] · connection[s, t] · kernel[p, q] / σ_t(p)

    The kernel is what attention patterns and norm scales of this run make of the way: the identity straight through
    the stream, A[p, q] / σ(q) through a head. Post-norms divide what is written by their own scales. An edge of the
    attribution graph is the sum of these over all ways.

    **Arguments:** as of `connections`; a `Feature` may name a position. Of `Features(layer)` as the target, the
    active ones count; a `Feature` as the target counts where it is active, and at a position it names anyway. `Embed()`
    are the tokens of the prompt, without their positions' embeddings. Tokens as targets are read at their `pos`, by
    default the last.

    **Raises:** as `connections` and `greedy_paths`; ConfigError for `Logits()`: name tokens.

    ```python
    contributions(spliced, prompt, source=Features(3), target=Feature(5, 1207, pos=-1), via=Head(4, 2))
    ```
    """
    check_options("contributions", k=k, memory=memory, sign=sign)
    run = run_of_one(spliced, prompt, "contributions")
    way = Way.of(Stream(spliced, run.model), source, target, via)
    dtype = way.dtype
    written, reading = firing(run, source, dtype), _readings(run, target, dtype)
    passed = kernel(run, way.steps, dtype)
    scale = read_scale(run, way.stream, target, dtype)
    best = Best(1, k, sign, written.value)
    size = max(1, memory // dtype.itemsize // max(1, len(written.pos)))
    n = len(reading.pos)
    vectors = vectors_of(run, way.parts, written, dtype)
    for start in range(0, n, size):
        t = torch.arange(start, min(start + size, n), device=vectors.device)
        pos = reading.pos[t]
        value = vectors @ (way.reads(reading.number[t]) / scale[0, pos, None]).T
        value = value * _arriving(passed, written.pos, pos, dtype)
        number = torch.arange(len(value), device=value.device)[:, None] * n + t
        best.offer(slice(None), value.reshape(1, -1), number.reshape(1, -1))
    _, number, value = best.found()
    s, t = number // max(n, 1), number % max(n, 1)
    return Contributions(
        of=source, to=target, via=way.steps,
        source_pos=written.pos[s], source=written.number[s],
        target_pos=reading.pos[t], target=reading.number[t], value=value,
    )  # fmt: skip


def vectors_of(
    run: Run, parts: tuple[WrittenRows, ...], written: Firing, dtype: torch.dtype
) -> Float[Tensor, "n d_model"]:
    """What every entry writes into the stream, post-norms and their scales included."""
    found = []
    for part in parts:
        rows = part.take(written.number, dtype)
        if part.layer is not None and part.norm is not None:
            rows = rows / write_scale(run, part.layer, dtype)[written.prompt, written.pos, None]
        found.append(rows)
    return torch.stack(found).sum(0) * written.value[:, None]


def _readings(run: Run, target: Target, dtype: torch.dtype) -> Firing:
    """Where a target is read, and which of it."""
    match target:
        case Features() | Feature(_, _, None):
            return firing(run, target, dtype)
        case Feature(_, _, int() as pos) | Token(_, pos) | Difference(_, _, pos):
            pass
        case _:
            raise ConfigError(
                "contributions, target",
                got=repr(target),
                expected="Features(layer), a Feature, a Token or a Difference",
                do="Name the token; connections() knows all logits.",
            )
    length = run.shape[1]
    if not -length <= pos < length:
        raise ConfigError(
            "contributions, target",
            got=f"position {pos}",
            expected=f"one of {length}",
            do="Choose a position of the prompt.",
        )
    at = torch.tensor([pos % length], device=run.tokens.device)
    nought = torch.zeros_like(at)
    return Firing(nought, at, nought, torch.ones_like(at, dtype=dtype))


def _arriving(
    passed: Tensor | None, q: Int[Tensor, " s"], p: Int[Tensor, " t"], dtype: torch.dtype
) -> Float[Tensor, "s t"]:
    if passed is None:
        return (q[:, None] == p).to(dtype)
    return passed[0][p[None], q[:, None]]
