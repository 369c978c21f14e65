"""Edits whose direct effects alone count: everything else stays what it is in the base run."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.interventions.steps import Editable, Step, within
from tl_transcoders.circuits.nodes import Error, Feature, Head, Mlp
from tl_transcoders.hosts import quiet
from tl_transcoders.splice.trace.forward import LazyRows, Rows, Spot
from tl_transcoders.splice.trace.run import Run

SPOTS: dict[type, Spot] = {Feature: "features", Head: "z", Error: "error", Mlp: "mlp_out"}


@torch.no_grad()
def constrained_logits(base: Run, steps: list[Step], copies: int) -> Float[Tensor, "row pos vocab"]:
    """Logits of `copies` of the base run's prompts with these edits, attention, features and errors frozen."""
    example = torch.arange(base.shape[0], device=base.tokens.device).repeat(copies)

    def visit(spot: Spot, layer: int, value: Any) -> Any:
        for step in steps:
            if layer == step.node.layer and spot == SPOTS[type(step.node)]:
                dense = value.dense() if isinstance(value, LazyRows) else value
                value = step.applied(dense, 0)
        return value

    forward = base.forward(rows=Rows(example), attention=True, mlps=True, visit=visit)
    with quiet(base.spliced.host):
        return forward.logits(forward.run(base.values["resid_pre", 0][example]))


def run_sources(
    source: Run, nodes: Iterable[Editable]
) -> dict[Editable, Float[Tensor, "batch pos *d"]]:
    """What nodes are in a run."""
    return {node: _value(source, node) for node in nodes}


def _value(run: Run, node: Editable) -> Tensor:
    value = run.values[SPOTS[type(node)], node.layer]
    dense = value.to_dense() if isinstance(node, Feature) else value
    return dense[(slice(None), slice(None), *within(node))]
