"""Edits whose direct effects alone count: everything else stays what it is in the base run."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.interventions.steps import Editable, Step, within
from tl_transcoders.circuits.nodes import Error, Feature, Head, Mlp
from tl_transcoders.hosts import quiet
from tl_transcoders.splice.trace.forward import FeatureChange, Rows, Spot
from tl_transcoders.splice.trace.run import Run

SPOTS: dict[type, Spot] = {Feature: "features", Head: "z", Error: "error", Mlp: "mlp_out"}


@torch.no_grad()
def constrained_logits(base: Run, steps: list[Step], copies: int) -> Float[Tensor, "row pos vocab"]:
    """Logits of `copies` of the base run's prompts with these edits, attention, features and errors frozen."""
    example = torch.arange(base.shape[0], device=base.tokens.device).repeat(copies)

    def visit(spot: Spot, layer: int, value: Any) -> Any:
        here = [s for s in steps if s.node.layer == layer and SPOTS[type(s.node)] == spot]
        if here and spot == "features":
            return _change(base, layer, here, example)
        for step in here:
            value = step.applied(value, 0)
        return value

    forward = base.forward(rows=Rows(example), attention=True, mlps=True, visit=visit)
    with quiet(base.spliced.host):
        return forward.logits(forward.run(base.embed[example]))


def _change(
    base: Run, layer: int, steps: list[Step], example: Int[Tensor, " row"]
) -> FeatureChange:
    features = sorted({step.node.index for step in steps if isinstance(step.node, Feature)})
    before = torch.stack([base.column(layer, index) for index in features], dim=-1)[example]
    after = before
    for step in steps:
        assert isinstance(step.node, Feature)
        column = Feature(layer, features.index(step.node.index))
        after = replace(step, node=column).applied(after, 0)
    index = torch.tensor(features, device=example.device).expand(len(example), -1)
    return FeatureChange(index, after - before)


def run_sources(
    source: Run, nodes: Iterable[Editable]
) -> dict[Editable, Float[Tensor, "batch pos *d"]]:
    """What nodes are in a run."""
    return {node: _value(source, node) for node in nodes}


def _value(run: Run, node: Editable) -> Tensor:
    if isinstance(node, Feature):
        return run.column(node.layer, node.index)
    value: Tensor = run.values[SPOTS[type(node)], node.layer]
    return value[(slice(None), slice(None), *within(node))]
