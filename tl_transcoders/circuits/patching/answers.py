"""What receivers become at the tokens where senders change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.nodes import Node, at
from tl_transcoders.circuits.patching.edits import Edit
from tl_transcoders.circuits.patching.families import Changes
from tl_transcoders.circuits.patching.hop import Hop, at_logits
from tl_transcoders.splice.trace.forward import Rows, Spot
from tl_transcoders.splice.trace.run import Run

LEAST: Final = 256
"""Rows that begin at different positions share a pass until it has this many tokens."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a receiver's answer replaces: a spot of a layer or some channels of it, at a position or at all of them."""

    spot: Spot
    layer: int
    channels: tuple[int, ...] | None
    pos: int | None

    def base(self, run: Run) -> Float[Tensor, "batch pos ..."]:
        """Its values in a run."""
        if self.channels is None:
            return run.values[self.spot, self.layer]
        if self.spot == "features":
            return torch.stack([run.column(self.layer, i) for i in self.channels], dim=2)
        return run.values[self.spot, self.layer][:, :, list(self.channels)]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What parts of receivers become at every token where a sender changes.

    `node` counts senders. `arrived` is the last residual stream, where the logits receive.
    """

    node: Int[Tensor, " token"]
    example: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    parts: tuple[Part, ...]
    values: tuple[Float[Tensor, "token ..."], ...]
    arrived: Float[Tensor, "token d_model"] | None

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        held = (*self.values, *(() if self.arrived is None else (self.arrived,)))
        return sum(value.numel() for value in held)

    def at(self, tokens: Tensor) -> Self:
        """Those at some of the tokens."""
        return replace(
            self,
            node=self.node[tokens],
            example=self.example[tokens],
            position=self.position[tokens],
            values=tuple(value[tokens] for value in self.values),
            arrived=None if self.arrived is None else self.arrived[tokens],
        )

    def edits(self, run: Run, rows: Rows, row: Int[Tensor, " token"]) -> list[Edit]:
        """The answers as edits of some rows, `row` being each token's; where a part did not change it keeps its base value.

        A part at one position is held there alone: at others it runs.
        """
        positions = torch.arange(rows.first, run.shape[1], device=row.device)
        edits = []
        for part, value in zip(self.parts, self.values, strict=True):
            base = rows.of(part.base(run))
            mine = self.position == part.pos if part.pos is not None else slice(None)
            place = row[mine], self.position[mine] - rows.first
            held = positions if part.pos is None else positions[positions == part.pos]
            if not len(held):
                continue
            became = base.index_put(place, value[mine].to(base.dtype))
            edit = Edit(
                spot=part.spot,
                layer=part.layer,
                positions=held,
                value=became[:, held - rows.first],
                base=base[:, held - rows.first],
                channels=_per_row(part.channels, rows),
            )
            edits.append(edit)
        return edits

    def final(self, run: Run, rows: Rows, row: Int[Tensor, " token"]) -> Tensor | None:
        """The last residual stream of some rows, where the logits receive."""
        if self.arrived is None:
            return None
        place = row, self.position - rows.first
        return rows.of(run.resid_final).index_put(place, self.arrived)


def answers(
    hop: Hop, changes: Changes, receivers: Sequence[Node], tokens: slice, length: int
) -> Answers:
    """What receivers become at some of the tokens of changes.

    **Arguments:** `hop`, of the run of single tokens; `length`, that of the prompts they come from.
    """
    example, position = changes.example[tokens], changes.position[tokens]
    there = replace(hop, rows=Rows(example * length + position))
    arrived = there.arrive([changes.edit(tokens)], receivers)
    parts, values = [], []
    for node in receivers:
        for edit in there.answer([at(node, None)], arrived):
            channels = None if edit.channels is None else tuple(edit.channels[0].tolist())
            parts.append(Part(spot=edit.spot, layer=edit.layer, channels=channels, pos=node.pos))
            values.append(edit.value[:, 0])
    last = arrived.get(("logits_in", hop.run.model.n_layers))
    if last is not None:
        base = there.rows.of(hop.run.resid_final)
        last = at_logits(receivers, last, base, position[:, None])
    return Answers(
        node=changes.node[tokens],
        example=example,
        position=position,
        parts=tuple(parts),
        values=tuple(values),
        arrived=None if last is None else last[:, 0],
    )


def differing(found: Answers, run: Run) -> Answers:
    """The answers at tokens where a receiver becomes something else than in the base run."""
    if found.arrived is not None:
        return found
    differs = torch.zeros_like(found.position, dtype=torch.bool)
    for part, value in zip(found.parts, found.values, strict=True):
        base = part.base(run)[found.example, found.position]
        changed = (value != base).flatten(1).any(1)
        differs |= changed if part.pos is None else changed & (found.position == part.pos)
    return found.at(differs)


def together(found: Sequence[Answers]) -> Answers:
    """Answers of the same receivers as one."""
    first = found[0]
    return replace(
        first,
        node=torch.cat([a.node for a in found]),
        example=torch.cat([a.example for a in found]),
        position=torch.cat([a.position for a in found]),
        values=tuple(torch.cat(values) for values in zip(*(a.values for a in found), strict=True)),
        arrived=None
        if first.arrived is None
        else torch.cat([a.arrived for a in found if a.arrived is not None]),
    )


def in_rows(
    found: Answers, shape: tuple[int, int], most: int
) -> Iterator[tuple[Rows, Int[Tensor, " row"], Answers, Int[Tensor, " token"]]]:
    """Passes of at most `most` tokens that continue the answers, a row for every sender and prompt.

    Gives the rows, which begin where the first of them changes; the sender of each; the answers; the row of each.
    """
    batch, length = shape
    pairs, row = (found.node * batch + found.example).unique(return_inverse=True)
    first = pairs.new_full((len(pairs),), length).scatter_reduce(0, row, found.position, "amin")
    order = first.argsort(stable=True)
    place = torch.empty_like(order).scatter(
        0, order, torch.arange(len(order), device=order.device)
    )[row]
    pairs = pairs[order]
    for start, stop, begins in _passes(first[order].tolist(), length, most):
        (mine,) = ((place >= start) & (place < stop)).nonzero(as_tuple=True)
        rows = Rows(pairs[start:stop] % batch, begins)
        yield rows, pairs[start:stop] // batch, found.at(mine), place[mine] - start


def _passes(firsts: Sequence[int], length: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Consecutive rows that go together, and where they begin: rows that begin elsewhere only into small passes."""
    start = 0
    for i, first in enumerate(firsts):
        per_row = length - firsts[start]
        n = (i - start) * per_row
        if n + per_row > most or (first != firsts[start] and n >= LEAST):
            if i > start:
                yield start, i, firsts[start]
            start = i
    if firsts:
        yield start, len(firsts), firsts[start]


def _per_row(channels: tuple[int, ...] | None, rows: Rows) -> Tensor | None:
    if channels is None:
        return None
    return torch.tensor(channels, device=rows.example.device).expand(len(rows.example), -1)
