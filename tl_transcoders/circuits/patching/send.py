"""What senders become: their values in the source run, at the positions they stand for."""

from typing import assert_never

import torch
from torch import Tensor

from tl_transcoders.circuits.nodes import (
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
)
from tl_transcoders.circuits.patching.edits import Edit
from tl_transcoders.circuits.patching.respond import positions_of
from tl_transcoders.splice.trace.forward import Rows, Spot
from tl_transcoders.splice.trace.run import Run


def from_source(node: Node, base: Run, source: Run, rows: Rows) -> Edit:
    """A sender set to its value in the source run."""
    spot, layer, channel = part_of(node)
    positions = positions_of(node, rows.first, base.shape[1], base.tokens.device)
    values = [
        rows.of(_values(run, spot, layer, channel))[:, positions - rows.first]
        for run in (source, base)
    ]
    channels = None
    if channel is not None:
        channels = torch.full((len(rows.example), 1), channel, device=positions.device)
    return Edit(
        spot=spot,
        layer=layer,
        positions=positions,
        value=values[0],
        base=values[1],
        channels=channels,
    )


def part_of(node: Node) -> tuple[Spot, int, int | None]:
    """The spot and layer of what a node writes, and which head or feature there it is."""
    match node:
        case Embed():
            return "embed", 0, None
        case Head(layer, head):
            return "z", layer, head
        case Feature(layer, index):
            return "features", layer, index
        case Error(layer):
            return "error", layer, None
        case Mlp(layer):
            return "mlp_raw", layer, None
        case KeyValue() | Logits():
            raise AssertionError("refused by check_sender")
        case _:
            assert_never(node)


def _values(run: Run, spot: Spot, layer: int, channel: int | None) -> Tensor:
    if spot == "embed":
        return run.embed
    if spot == "features":
        assert channel is not None
        return run.column(layer, channel)[..., None]
    values = run.values[spot, layer]
    return values if channel is None else values[:, :, [channel]]
