"""The way a connection takes: straight through the residual stream, or through heads and skip connections."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never, final

from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.nodes import Embed, Feature, Head
from tl_transcoders.circuits.weights.ends import Features, Source, Target
from tl_transcoders.circuits.weights.stream import Stream, WrittenRows
from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import Norm


@final
@dataclass(frozen=True, slots=True)
class Skip:
    """The skip connection of the transcoder of a layer."""

    layer: int
    pos: int | None = None


Step = Head | Skip
Via = Literal["residual"] | Step | Sequence[Step]
"""`"residual"`, a step, or several in the order in which they are passed."""
EMBEDDED, PER_LAYER = -1, 3


def steps_of(stream: Stream, via: Via) -> tuple[Step, ...]:
    """The steps, checked; raises ConfigError for a head or a skip connection that is not there."""
    if isinstance(via, str) and via != "residual":
        raise _wrong_way(repr(via))
    steps = () if isinstance(via, str) else (via,) if isinstance(via, Head | Skip) else tuple(via)
    for step in steps:
        match step:
            case Head(layer, head, None, None):
                stream.check_head(layer, head)
            case Head():
                raise _wrong_way(f"{step}, which names a reader or a position")
            case Skip(layer, pos) if pos is not None:
                raise _wrong_way(f"{step}, which names a position")
            case Skip(layer, _):
                if stream.swap(layer).W_skip is None:
                    raise _wrong_way(f"{step}, a layer whose transcoder has no skip connection")
            case _:
                raise _wrong_way(repr(step))
    return steps


def reachable(
    stream: Stream, source: Source, steps: Sequence[Step], target: Target | Head
) -> tuple[WrittenRows, ...]:
    """What a source writes before the first step (or the target) reads.

    **Raises:** ConfigError where something on the way reads before what comes before it has written.
    """
    reads = [_reads(stream, step) for step in (*steps, target)]
    writes = [_writes(stream, step.layer, isinstance(step, Head)) for step in steps]
    parts = [part for part in stream.written(source) if _written(stream, part) <= reads[0]]
    late = any(write > read for write, read in zip(writes, reads[1:], strict=True))
    if late or not parts:
        way = " -> ".join(str(end) for end in (source, *steps, target))
        raise ConfigError(
            "connection",
            got=f"{way}, where something reads before it is written",
            expected="a source before its target, and steps in between in their order",
            do="A layer is attention, then the MLP; features read at theirs and write behind it.",
        )
    return tuple(parts)


def reaches(stream: Stream, *ends: Source | Step | Target) -> bool:
    """Whether every one of these has written before the next reads; single features and tokens as for `connections`."""
    writes = [
        _writes(stream, end.layer, isinstance(end, Head))
        if isinstance(end, Head | Skip | Feature | Features)
        else EMBEDDED
        for end in ends[:-1]
    ]
    reads = [_reads(stream, end) for end in ends[1:] if not isinstance(end, Embed)]
    return all(write <= read for write, read in zip(writes, reads, strict=True))


def pull(
    stream: Stream, steps: Sequence[Step], g: Float[Tensor, "n d_model"]
) -> Float[Tensor, "n d_model"]:
    """What readings of the stream read of it before these steps, norm scales and patterns left out."""
    for step in reversed(steps):
        g = _pull_once(stream, step, g)
    return g


def _pull_once(stream: Stream, step: Step, g: Tensor) -> Tensor:
    block, dtype = stream.block(step.layer), g.dtype
    match step:
        case Head(_, head):
            attention = block.attention
            W_V, W_O = attention.W_V[head // attention.heads_per_group], attention.W_O[head]
            g = _behind(block.ln1_post, g) @ W_O.T.to(dtype) @ W_V.T.to(dtype)
            return _behind(block.ln1, g)
        case Skip(layer, _):
            swap = stream.swap(layer)
            assert swap.W_skip is not None
            g = _behind(block.ln2_post, g) @ swap.W_skip.T.to(dtype)
            match swap.coder.cfg.read:
                case "mlp_in":
                    return _behind(block.ln2, g)
                case "ln2_normalized":
                    return block.ln2.centre(g)
                case _:
                    return g
        case _:
            assert_never(step)


def _behind(norm: Norm | None, g: Tensor) -> Tensor:
    """The transpose of a norm without its scale."""
    return g if norm is None else norm.centre(g * norm.gain.to(g.dtype))


def _written(stream: Stream, part: WrittenRows) -> int:
    return EMBEDDED if part.layer is None else _writes(stream, part.layer, False)


def _writes(stream: Stream, layer: int, by_attention: bool) -> int:
    early = by_attention and not stream.block(layer).parallel
    return PER_LAYER * layer + (1 if early else 2)


def _reads(stream: Stream, end: Source | Step | Target) -> int:
    match end:
        case Head(layer):
            return PER_LAYER * layer
        case Skip(layer) | Feature(layer) | Features(layer):
            stream.swap(layer)
            return PER_LAYER * layer + (0 if stream.block(layer).parallel else 1)
        case _:
            return PER_LAYER * stream.n_layers


def _wrong_way(got: str) -> ConfigError:
    return ConfigError(
        "connections, via",
        got=got,
        expected='"residual", Head(layer, head), Skip(layer), or several of these in their order',
        do="Correct it.",
    )
