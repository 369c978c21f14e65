"""The metric of a model in which only some nodes are computed and the others have their ablated values."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_transcoders.circuits.ablation.free import Free, Kind
from tl_transcoders.circuits.ablation.setting import Setting
from tl_transcoders.circuits.circuit import Circuit
from tl_transcoders.circuits.nodes import (
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
    write_node,
)
from tl_transcoders.circuits.read_metric import read_metric
from tl_transcoders.circuits.values import place_of
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice.trace.forward import Forward, Rows, Spot
from tl_transcoders.splice.trace.run import KEPT, Run
from tl_transcoders.splice.trace.swap import dense

Masks = Mapping[tuple[Spot, int], Bool[Tensor, "pos channel"]]
"""Which positions, and which heads or features, of every place are computed."""

KINDS: Final[Mapping[Spot, Kind]] = {"z": Head, "features": Feature, "error": Error, "mlp_raw": Mlp}


def masks_of(setting: Setting, circuit: Circuit, *, complement: bool = False) -> Masks:
    """The nodes of a circuit, or all others; what is given is in either.

    **Raises:** ConfigError for an input of a head in a circuit without edges, in which it means nothing.
    """
    device = setting.run.tokens.device
    masks: dict[tuple[Spot, int], Tensor] = {
        (spot, layer): torch.full((setting.run.shape[1], channels), False, device=device)
        for spot, layer, channels in _places(setting.run)
    }
    _let_in(masks, _writers(circuit))
    if complement:
        masks = {place: ~mask for place, mask in masks.items()}
    _let_in(masks, setting.free.nodes)
    for spot, layer in masks:
        if spot in KINDS and setting.free.holds(KINDS[spot], layer):
            masks[spot, layer][:] = True
        if spot == "error" and setting.errors == "drop":
            masks[spot, layer][:] = False
    return masks


@torch.no_grad()
def measure_nodes(setting: Setting, masks: Masks) -> Float[Tensor, " batch"]:
    """The metric of every prompt when only these nodes are computed."""
    run = setting.run
    width = max((coder.n_features for coder in run.model.coders.values()), default=0)
    values = []
    for part in setting.prompts(run.shape[1] * (width + 8 * run.embed.shape[2])):
        rows = Rows(part)
        forward = _forward(setting, masks, rows)
        x = forward.run(rows.of(run.embed))
        values.append(read_metric(run, setting.metric, x, rows))
    return torch.cat(values)


@torch.no_grad()
def emptied(setting: Setting) -> Run:
    """The run in which every node has its ablated value, features left out."""
    run, nothing = setting.run, replace(setting, free=Free())
    values: dict[tuple[Spot, int], Any] = {}
    forward = _forward(nothing, masks_of(nothing, Circuit()), run.all_rows, values)
    embed = setting.ablated.of("embed", 0, run.all_rows, run.embed).expand_as(run.embed)
    logits = forward.logits(forward.run(run.embed))
    return replace(run, embed=embed, values=values, logits=logits)


def _forward(
    setting: Setting,
    masks: Masks,
    rows: Rows,
    record: dict[tuple[Spot, int], Any] | None = None,
) -> Forward:
    def visit(spot: Spot, layer: int, value: Any) -> Any:
        mask = masks.get((spot, layer))
        if mask is not None:
            live = dense(value) if spot == "features" else value
            mask = mask[..., None] if spot == "z" else mask
            value = torch.where(mask, live, setting.ablated.of(spot, layer, rows, live))
        if record is not None and spot in KEPT and spot != "features":
            record[spot, layer] = value
        return value

    return setting.run.forward(rows=rows, errors="live", visit=visit)


def _places(run: Run) -> Iterator[tuple[Spot, int, int]]:
    """Where nodes are, and how many heads or features are there."""
    model = run.model
    yield "embed", 0, 1
    for layer, block in enumerate(model.anatomy.blocks):
        yield "z", layer, block.attention.n_heads
        if layer in model.coders:
            yield "features", layer, model.coders[layer].n_features
            if model.coders[layer].policy != "drop":
                yield "error", layer, 1
        if layer not in model.swaps:
            yield "mlp_raw", layer, 1


def _let_in(masks: Masks, nodes: Iterable[Node]) -> None:
    for node in nodes:
        # What an MLP itself writes, before a norm or an SAE that follows it.
        if isinstance(node, Mlp):
            masks["mlp_raw", node.layer][slice(None) if node.pos is None else node.pos] = True
            continue
        place, channel = place_of(node)
        where = slice(None) if node.pos is None else node.pos
        masks[place][where, slice(None) if channel is None else channel] = True


def _writers(circuit: Circuit) -> Iterator[Node]:
    for node in sorted(circuit.nodes, key=write_node):
        match node:
            case Logits():
                continue
            case KeyValue() | Head(_, _, "q" | "k" | "v"):
                if not circuit.edges:
                    raise ConfigError(
                        write_node(node),
                        got="an input of a head in a circuit of nodes",
                        expected="what heads write, such as a4.h2",
                        do="Name the head itself, or give the circuit its edges.",
                    )
            case _:
                yield node
