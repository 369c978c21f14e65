"""A source, a target and the steps between them: what both factors of an effect are computed from."""

from dataclasses import dataclass
from typing import Self, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.weights.ends import Source, Target
from tl_transcoders.circuits.weights.stream import ReadRows, Stream, WrittenRows, total
from tl_transcoders.circuits.weights.via import Step, Via, pull, reachable, steps_of


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a source reaches a target: what it writes before the steps, and what the target reads behind them."""

    stream: Stream
    source: Source
    target: Target
    steps: tuple[Step, ...]
    parts: tuple[WrittenRows, ...]
    read: ReadRows

    @classmethod
    def of(cls, stream: Stream, source: Source, target: Target, via: Via) -> Self:
        """The way, checked; raises ConfigError where there is none."""
        steps = steps_of(stream, via)
        parts = reachable(stream, source, steps, target)
        return cls(
            stream=stream, source=source, target=target, steps=steps, parts=parts,
            read=stream.read(target),
        )  # fmt: skip

    @property
    def n_source(self) -> int:
        """How many features or tokens the source stands for."""
        return len(self.parts[0].rows)

    @property
    def n_target(self) -> int:
        """How many the target stands for."""
        return len(self.read.rows)

    @property
    def dtype(self) -> torch.dtype:
        """What everything is computed in."""
        return self.stream.dtype

    @property
    def groups(self) -> tuple[tuple[WrittenRows, ...], ...]:
        """Parts that share a scale: all of them, but where every layer has a post-norm of its own."""
        if all(part.norm is None for part in self.parts):
            return (self.parts,)
        return tuple((part,) for part in self.parts)

    def writes(self, rows: slice | Int[Tensor, " m"]) -> Float[Tensor, "m d_model"]:
        """What some of the source write at activation 1."""
        return total(self.parts, rows, self.dtype)

    def writes_by_group(
        self, rows: slice | Int[Tensor, " m"], factor: Float[Tensor, "m group"]
    ) -> Float[Tensor, "m d_model"]:
        """The same, every group times a factor of its own."""
        found = [
            total(group, rows, self.dtype) * factor[:, i, None].to(self.dtype)
            for i, group in enumerate(self.groups)
        ]
        return torch.stack(found).sum(0)

    def reads(self, rows: slice | Int[Tensor, " m"]) -> Float[Tensor, "m d_model"]:
        """What some of the target read with, before the steps."""
        return pull(self.stream, self.steps, self.read.take(rows, self.dtype))
