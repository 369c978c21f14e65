"""Families of senders, swept in one go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never, final

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.nodes import Feature, Head, Node
from tl_transcoders.circuits.patching.check import depth
from tl_transcoders.circuits.patching.edits import Edit
from tl_transcoders.splice.trace.forward import Rows
from tl_transcoders.splice.trace.run import Run


@final
@dataclass(frozen=True, slots=True)
class AllHeads:
    """Every head of these layers, or of all of them."""

    layers: Sequence[int] | None = None


@final
@dataclass(frozen=True, slots=True)
class ActiveFeatures:
    """Every feature of these layers that differs between base and source where receivers read; of all layers by default."""

    layers: Sequence[int] | None = None


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

    def part(self, rows: slice) -> tuple[Rows, Edit, Tensor]:
        """Some of the rows: where they continue the base run, their edit and their senders."""
        e = self.edit
        first = int(e.positions.min())
        edit = Edit(
            spot=e.spot,
            layer=e.layer,
            positions=e.positions,
            value=e.value[rows],
            base=e.base[rows],
            channels=None if e.channels is None else e.channels[rows],
        )
        return Rows(self.example[rows], first), edit, self.node[rows]


def batches(
    family: Family, base: Run, source: Run, positions: Int[Tensor, " pos"], before: float
) -> Iterator[Batch]:
    """One batch for every layer of a family that comes `before` the receivers; rows without any change are left out."""
    match family:
        case AllHeads(layers):
            for layer in range(base.model.n_layers) if layers is None else layers:
                if depth(Head(layer, 0), base.model) < before:
                    yield _heads(layer, base, source, positions)
        case ActiveFeatures(layers):
            for layer in sorted(base.model.coders) if layers is None else layers:
                if depth(Feature(layer, 0), base.model) < before:
                    yield _features(layer, base, source, positions)
        case _:
            assert_never(family)


def _heads(layer: int, base: Run, source: Run, positions: Tensor) -> Batch:
    was, becomes = (run.values["z", layer][:, positions] for run in (base, source))
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


def _features(layer: int, base: Run, source: Run, positions: Tensor) -> Batch:
    length = base.shape[1]
    place = torch.full((length,), -1, device=positions.device)
    place[positions] = torch.arange(len(positions), device=positions.device)
    keys, values, columns = [], [], []
    for run in (base, source):
        features = run.values["features", layer]
        rows = features.rows()
        at = place[rows % length]
        kept = (at >= 0) & (features.values != 0)
        keys.append((rows // length * features.shape[-1] + features.indices)[kept])
        values.append(features.values[kept])
        columns.append(at[kept])
    pairs, inverse = torch.cat(keys).unique(return_inverse=True)
    n_base = len(keys[0])
    was = values[0].new_zeros(len(pairs), len(positions))
    becomes = was.clone()
    was[inverse[:n_base], columns[0]] = values[0]
    becomes[inverse[n_base:], columns[1]] = values[1]
    changed = (was != becomes).any(1)
    width = base.model.coders[layer].n_features
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
