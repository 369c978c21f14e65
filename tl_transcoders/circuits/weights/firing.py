"""What fires on a run: features and their activations, tokens once where they stand; entry by entry."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs import Token
from tl_transcoders.circuits.nodes import Embed, Feature
from tl_transcoders.circuits.weights.ends import Features, Source
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice.trace.run import Run


@final
@dataclass(frozen=True, slots=True)
class Firing:
    """Entries of a run: which prompt and position, which number of the source's, and how strongly."""

    prompt: Int[Tensor, " n"]
    pos: Int[Tensor, " n"]
    number: Int[Tensor, " n"]
    value: Float[Tensor, " n"]

    def take(self, chosen: Bool[Tensor, " n"]) -> "Firing":
        """Some of the entries."""
        return Firing(*(x[chosen] for x in (self.prompt, self.pos, self.number, self.value)))


def firing(run: Run, end: Source | Features, dtype: torch.dtype) -> Firing:
    """What of an end fires; a single feature or token has number 0."""
    match end:
        case Features(layer) | Feature(layer, _):
            return _features(run, layer, end, dtype)
        case Embed() | Token():
            return _tokens(run, end, dtype)


def _features(run: Run, layer: int, end: Features | Feature, dtype: torch.dtype) -> Firing:
    features = run.values["features", layer]
    kept = features.values != 0
    if isinstance(end, Feature):
        kept = kept & (features.indices == end.index)
    row, length = features.rows()[kept], run.shape[1]
    number = features.indices[kept]
    return _at(
        end.pos if isinstance(end, Feature) else None,
        run,
        Firing(
            row // length,
            row % length,
            torch.zeros_like(number) if isinstance(end, Feature) else number,
            features.values[kept].to(dtype),
        ),
    )


def _tokens(run: Run, end: Embed | Token, dtype: torch.dtype) -> Firing:
    kept = torch.ones_like(run.tokens, dtype=torch.bool)
    if isinstance(end, Token):
        kept = run.tokens == end.token
    prompt, pos = kept.nonzero(as_tuple=True)
    number = run.tokens[kept]
    every = Firing(
        prompt,
        pos,
        torch.zeros_like(number) if isinstance(end, Token) else number,
        torch.ones(len(number), dtype=dtype, device=number.device),
    )
    return every if isinstance(end, Token) else _at(end.pos, run, every)


def _at(pos: int | None, run: Run, found: Firing) -> Firing:
    if pos is None:
        return found
    length = run.shape[1]
    if not -length <= pos < length:
        raise ConfigError(
            "connection, position",
            got=str(pos),
            expected=f"one of {length}",
            do="Choose a position of the prompt.",
        )
    return found.take(found.pos == pos % length)
