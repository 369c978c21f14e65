"""Families of senders, swept in one go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import assert_never, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.checks import check_exists, depth
from tl_transcoders.circuits.edits import Add, Set, new_value
from tl_transcoders.circuits.edits import Edit as Record
from tl_transcoders.circuits.nodes import Feature, Head, Node
from tl_transcoders.circuits.patching.edits import Edit
from tl_transcoders.circuits.patching.send import check_record
from tl_transcoders.circuits.values import Place, Values
from tl_transcoders.splice.trace.forward import Spot
from tl_transcoders.splice.trace.run import Run
from tl_transcoders.transcoders import SparseFeatures


@final
@dataclass(frozen=True, slots=True)
class AllHeads:
    """Every head of these layers, or of all of them."""

    layers: Sequence[int] | None = None


@final
@dataclass(frozen=True, slots=True)
class ActiveFeatures:
    """Every feature of these layers that is active in the base run, or where its value comes from, and changes.

    Only positions that receivers read count. Without `layers`, of all of them.
    """

    layers: Sequence[int] | None = None


Given = Tensor | SparseFeatures | None
Family = AllHeads | ActiveFeatures


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows in which one sender each is changed: the sender by its place in `nodes`, and the edit that changes it."""

    layer: int
    nodes: tuple[Node, ...]
    node: Int[Tensor, " row"]
    example: Int[Tensor, " row"]
    edit: Edit

    def rows(self, rows: slice) -> Edit:
        """The edit of some of the rows."""
        e = self.edit
        channels = None if e.channels is None else e.channels[rows]
        return replace(e, value=e.value[rows], base=e.base[rows], channels=channels)

    def changes(self) -> "Changes":
        """The tokens at which anything changes."""
        e = self.edit
        assert e.channels is not None
        row, at = (e.value != e.base).flatten(2).any(2).nonzero(as_tuple=True)
        return Changes(
            spot=e.spot,
            layer=e.layer,
            node=self.node[row],
            example=self.example[row],
            position=e.positions[at],
            value=e.value[row, at, None],
            base=e.base[row, at, None],
            channels=e.channels[row],
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Tokens at which one sender each, of one layer, changes: where it stands in the batch, what it becomes and was."""

    spot: Spot
    layer: int
    node: Int[Tensor, " token"]
    example: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    value: Float[Tensor, "token 1 ..."]
    base: Float[Tensor, "token 1 ..."]
    channels: Int[Tensor, "token 1"]

    def edit(self, tokens: slice) -> Edit:
        """What makes some of the changes, each in a prompt of one token."""
        return Edit(
            spot=self.spot,
            layer=self.layer,
            positions=self.position.new_zeros(1),
            value=self.value[tokens],
            base=self.base[tokens],
            channels=self.channels[tokens],
        )


def places_of(family: Family, base: Run) -> list[Place]:
    """Where the senders of a family write."""
    match family:
        case AllHeads(layers):
            return [("z", i) for i in (range(base.model.n_layers) if layers is None else layers)]
        case ActiveFeatures(layers):
            return [
                ("features", i) for i in (sorted(base.model.coders) if layers is None else layers)
            ]
        case _:
            assert_never(family)


def batches(
    family: Family,
    base: Run,
    value: Record,
    theirs: Values | None,
    positions: Int[Tensor, " pos"],
    before: float,
) -> Iterator[Batch]:
    """One batch for every layer of a family that comes `before` the receivers; rows without any change are left out.

    `theirs` are the values that a `Patch` or `Mean` takes from elsewhere.
    """
    for spot, layer in places_of(family, base):
        node: Node = Head(layer, 0) if spot == "z" else Feature(layer, 0)
        check_exists(node, base.spliced)
        check_record(node, value, base)
        if depth(node, base.model) < before:
            given = None if theirs is None else theirs[spot, layer]
            of_layer = _heads if spot == "z" else _features
            yield of_layer(layer, base, value, given, positions)


def _heads(layer: int, base: Run, value: Record, theirs: Given, positions: Tensor) -> Batch:
    assert not isinstance(theirs, SparseFeatures)
    was = base.values["z", layer][:, positions]
    becomes = new_value(value, was, None if theirs is None else theirs[:, positions])
    example, head = (was != becomes).any(3).any(1).nonzero(as_tuple=True)
    index = example[:, None], torch.arange(len(positions))[None], head[:, None]
    edit = Edit(
        spot="z",
        layer=layer,
        positions=positions,
        value=becomes[index].unsqueeze(2),
        base=was[index].unsqueeze(2),
        channels=head[:, None],
    )
    nodes = tuple(Head(layer, h) for h in range(was.shape[2]))
    return Batch(layer=layer, nodes=nodes, node=head, example=example, edit=edit)


def _features(layer: int, base: Run, value: Record, theirs: Given, positions: Tensor) -> Batch:
    width = base.model.coders[layer].n_features
    runs = [_active(base.values["features", layer], positions, base.shape)]
    if theirs is not None:
        sparse = SparseFeatures.from_dense(theirs) if isinstance(theirs, Tensor) else theirs
        runs.append(_active(sparse, positions, base.shape))
    keys = torch.cat([key for key, _, _ in runs])
    pairs = keys.unique()
    if isinstance(
        value, Set | Add
    ):  # these change a feature in prompts where it is not active, too
        prompts = torch.arange(base.shape[0], device=keys.device)[:, None]
        pairs = (prompts * width + (pairs % width).unique()).flatten()
    inverse = torch.searchsorted(pairs, keys)
    was, *other = (
        values.new_zeros(len(pairs), len(positions)).index_put((row, column), values)
        for row, (_, column, values) in zip(
            inverse.split([len(key) for key, _, _ in runs]), runs, strict=True
        )
    )
    becomes = new_value(value, was, other[0] if other else None)
    if base.excluded is not None:
        becomes = torch.where(base.excluded[pairs // width][:, positions], was, becomes)
    changed = (was != becomes).any(1)
    example, index = (pairs // width)[changed], (pairs % width)[changed]
    found, node = index.unique(return_inverse=True)
    edit = Edit(
        spot="features",
        layer=layer,
        positions=positions,
        value=becomes[changed, :, None],
        base=was[changed, :, None],
        channels=index[:, None],
    )
    nodes = tuple(Feature(layer, i) for i in found.tolist())
    return Batch(layer=layer, nodes=nodes, node=node, example=example, edit=edit)


def _active(
    features: SparseFeatures, positions: Tensor, shape: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of every active feature: its prompt and index as one number, its place in `positions`, and its value.

    What a single prompt holds is the same for all.
    """
    batch, length = shape
    place = torch.full((length,), -1, device=positions.device)
    place[positions] = torch.arange(len(positions), device=positions.device)
    rows = features.rows()
    at = place[rows % length]
    kept = (at >= 0) & (features.values != 0)
    example, index = (rows // length)[kept], features.indices[kept]
    copies = batch // features.shape[0]
    if copies > 1:
        example = torch.arange(batch, device=rows.device).repeat_interleave(len(index))
    key = example * features.shape[-1] + index.repeat(copies)
    return key, at[kept].repeat(copies), features.values[kept].repeat(copies)
