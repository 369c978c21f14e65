"""A task: what a base run and a source run are given, and what is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.metrics import AbstractMetric
from tl_transcoders.errors import ShapeError


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """Pairs of prompts of one length, that differ in what the answer depends on.

    `metric` is positive where a model that reads `base` answers rightly. `positions` names the tokens that
    matter; every prompt has them at the same places.
    """

    name: str
    base: Int[Tensor, "batch pos"]
    source: Int[Tensor, "batch pos"]
    metric: AbstractMetric
    positions: Mapping[str, int]

    def __post_init__(self) -> None:
        batch, length = self.base.shape
        for name, pos in self.positions.items():
            if not 0 <= pos < length:
                self._refuse(f"{name} at position {pos}", f"a position of {length} tokens")
        if self.source.shape != self.base.shape:
            self._refuse(f"source {tuple(self.source.shape)}", f"base's shape {(batch, length)}")
        if self.metric.batch not in (None, batch):
            self._refuse(f"a metric of {self.metric.batch} prompts", f"one of {batch} prompts")

    def _refuse(self, got: str, expected: str) -> None:
        raise ShapeError(
            f"task {self.name}", got=got, expected=expected, do="Make base and source pairs."
        )

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.base)
