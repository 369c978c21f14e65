"""Edits whose direct effects alone count: everything else stays what it is in the base run."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.interventions.steps import Step
from tl_transcoders.circuits.nodes import Feature
from tl_transcoders.circuits.values import place_of
from tl_transcoders.hosts import quiet
from tl_transcoders.splice.trace.forward import FeatureChange, Rows, Spot
from tl_transcoders.splice.trace.run import Run


@torch.no_grad()
def constrained_logits(base: Run, steps: list[Step], copies: int) -> Float[Tensor, "row pos vocab"]:
    """Logits of `copies` of the base run's prompts with these edits, attention, features and errors frozen."""
    example = torch.arange(base.shape[0], device=base.tokens.device).repeat(copies)

    def visit(spot: Spot, layer: int, value: Any) -> Any:
        here = [step for step in steps if place_of(step.node)[0] == (spot, layer)]
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
