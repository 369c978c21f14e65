"""Edits of nodes made definite: which columns of which tensor get which new values."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never, final

import torch
from torch import Tensor

from tl_transcoders.circuits.edits import (
    ENDLESS,
    Add,
    Edit,
    Mean,
    Scale,
    Set,
    count_strengths,
    new_value,
)
from tl_transcoders.circuits.nodes import Error, Feature, Head, Mlp, write_node
from tl_transcoders.errors import ShapeError

Editable = Feature | Head | Error | Mlp


@final
@dataclass(frozen=True, slots=True)
class Step:
    """One edit of one node, at the positions of a range that counts from the start of the sequence.

    `source` is what a `Patch` or `Mean` replaces the node by: `[batch pos]`, or `[batch pos d]`.
    """

    node: Editable
    edit: Edit
    positions: range
    source: Tensor | None = None

    def columns(self, first: int, n: int) -> list[int]:
        """Which of the `n` positions from `first` on it changes, counted from `first`."""
        reach = min(first + n, self.end)
        return [p - first for p in range(first, reach) if p in self.positions]

    @property
    def end(self) -> int:
        """The first position it can no longer change: what comes from other prompts ends with them."""
        return ENDLESS if self.source is None or self.everywhere else self.source.shape[1]

    def applied(self, value: Tensor, first: int) -> Tensor:
        """`value [row pos ...]` of positions from `first` on, with this edit; heads have an axis of their own."""
        columns = self.columns(first, value.shape[1])
        if not columns:
            return value
        where = (slice(None), torch.tensor(columns, device=value.device), *within(self.node))
        out = value.clone()
        out[where] = self._new(value[where], [first + column for column in columns])
        return out

    def _new(self, old: Tensor, positions: list[int]) -> Tensor:
        theirs = self.source
        if theirs is not None:
            theirs = theirs[:, [0] * len(positions) if self.everywhere else positions]
        return new_value(self.edit, old, theirs)

    @property
    def everywhere(self) -> bool:
        """Whether its one value from elsewhere serves all positions."""
        return isinstance(self.edit, Mean) and not self.edit.per_position

    @property
    def strengths(self) -> int | None:
        """How many strengths the edit holds; None where it holds one value only."""
        return count_strengths(self.edit, vector=not isinstance(self.node, Feature))


def within(node: Editable) -> tuple[int, ...]:
    """Where in the value of a position the node is."""
    match node:
        case Feature(_, index):
            return (index,)
        case Head(_, head):
            return (head,)
        case Error() | Mlp():
            return ()
        case _:
            assert_never(node)


def common_strengths(steps: Iterable[Step]) -> int | None:
    """How many strengths the edits hold, None for no such axis; raises ShapeError where they disagree."""
    counts = {write_node(step.node): step.strengths for step in steps}
    different = {n for n in counts.values() if n is not None}
    if len(different) > 1:
        raise ShapeError(
            "intervene",
            got=", ".join(f"{n} strengths for {node}" for node, n in counts.items() if n),
            expected="the same number of strengths for every node",
            do="Strengths go together, one by one: make the vectors equally long.",
        )
    return next(iter(different), None)


def one_strength(step: Step, i: int) -> Step:
    """The same edit with the i-th of its strengths only."""
    if step.strengths is None:
        return step
    match step.edit:
        case Set(value, at=at) | Add(value, at=at) | Scale(value, at=at):
            assert isinstance(value, Tensor)
            return Step(step.node, type(step.edit)(value[i], at=at), step.positions, step.source)
        case _:
            return step
