"""Edits of nodes made definite: which columns of which tensor get which new values."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, assert_never, final

import torch
from torch import Tensor

from tl_transcoders.circuits.interventions.edits import Ablate, Add, Edit, Patch, Scale, Set, Value
from tl_transcoders.circuits.nodes import Error, Feature, Head, Mlp, Node, write_node
from tl_transcoders.errors import ConfigError, ShapeError

Editable = Feature | Head | Error | Mlp
ENDLESS: Final = sys.maxsize


@final
@dataclass(frozen=True, slots=True)
class Step:
    """One edit of one node, at the positions of a range that counts from the start of the sequence.

    `source` is what the node is in the run a `Patch` takes it from: `[batch pos]`, or `[batch pos d]`.
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
        """The first position it can no longer change: a patch ends with its source."""
        return ENDLESS if self.source is None else self.source.shape[1]

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
        match self.edit:
            case Set(value):
                return _per_row(value, old, self.vector).expand_as(old)
            case Add(value):
                return old + _per_row(value, old, self.vector)
            case Scale(factor):
                return old * _per_row(factor, old, False)
            case Ablate():
                return torch.zeros_like(old)
            case Patch():
                assert self.source is not None
                source = self.source[:, positions].to(old)
                return source.repeat(len(old) // len(source), *[1] * (old.ndim - 1))
            case _:
                assert_never(self.edit)

    @property
    def vector(self) -> bool:
        """Whether the node's value at a position is a vector."""
        return not isinstance(self.node, Feature)

    @property
    def strengths(self) -> int | None:
        """How many strengths the edit holds; None where it holds one value only."""
        match self.edit:
            case Set(value) | Add(value):
                axes = 2 if self.vector else 1
            case Scale(value):
                axes = 1
            case _:
                return None
        return len(value) if isinstance(value, Tensor) and value.ndim == axes else None


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


def count_strengths(steps: Iterable[Step]) -> int | None:
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


def positions_of(node: Node, edit: Edit, length: int | None) -> range:
    """The positions an edit is meant for; `length` is that of the prompts, None while a sequence grows."""
    where = write_node(node)
    if node.pos is not None and edit.at is not None:
        raise ConfigError(
            where,
            got=f"a position and at={edit.at}",
            expected="one of them",
            do="Leave the position out of the node, or at= out of the edit.",
        )
    wanted = slice(None) if edit.at is None else edit.at
    if node.pos is not None:
        wanted = slice(node.pos, node.pos + 1 or None)
    if length is None:
        return _from_start(where, wanted)
    found = range(length)[wanted]
    if not found or (node.pos is not None and not -length <= node.pos < length):
        at = f"position {node.pos}" if node.pos is not None else f"positions {wanted}"
        raise ConfigError(
            where,
            got=f"{at} of prompts of {length} positions",
            expected=f"positions from 0 to {length - 1}, or from -{length} to -1",
            do="Correct the position.",
        )
    return found


def _from_start(where: str, wanted: slice) -> range:
    parts = (wanted.start or 0, ENDLESS if wanted.stop is None else wanted.stop, wanted.step or 1)
    if min(parts) < 0 or not range(*parts):
        raise ConfigError(
            where,
            got=f"positions {wanted} of a sequence that may still grow",
            expected="positions counted from its start",
            do="Count from the start; slice(n, None) is every position from n on.",
        )
    return range(*parts)


def _per_row(value: Value, old: Tensor, vector: bool) -> Tensor:
    """A number, a vector `[d]`, or one of them for every strength, shaped to broadcast over `old [row pos *d]`."""
    new = torch.as_tensor(value).to(old)
    if new.ndim == 0 or (vector and new.ndim == 1):
        return new
    new = new.repeat_interleave(len(old) // len(new), dim=0)
    return new[:, None] if vector else new.view(-1, *[1] * (old.ndim - 1))
