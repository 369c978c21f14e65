"""Scores of nodes: a change times a gradient."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.attribution.changes import Changes
from tl_transcoders.circuits.attribution.point import Point

Kind = Literal["embed", "head", "q", "k", "v", "mlp", "feature", "error"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
Family = tuple[Kind, int]
"""Nodes of a kind and layer."""
Scores = Mapping[Family, Tensor]
"""Scores of families: `[batch pos]`, of heads and their readers `[batch pos head]`, of features `[n]` as in Changes."""
BUDGET: Final = 32_000_000


def scores(changes: Changes, point: Point) -> Scores:
    """(source − base) · ∂m/∂node of every node."""
    found: dict[Family, Tensor] = {
        ("embed", 0): _dot(changes.embed, point.gradients["embed", 0]),
        **{("head", i): _dot(d, point.gradients["z", i]) for i, d in changes.heads.items()},
        **{
            (part, i): _dot(d, point.gradients[part, i]) for (part, i), d in changes.readers.items()
        },
        **{("mlp", i): _dot(d, point.gradients["mlp_raw", i]) for i, d in changes.mlps.items()},
        **{("error", i): _dot(d, point.written(i)) for i, d in changes.errors.items()},
    }
    for layer, some in changes.features.items():
        gradient = feature_gradients(point, layer, some.row, some.index)
        found["feature", layer] = some.delta * gradient
    return found


def feature_gradients(
    point: Point, layer: int, row: Int[Tensor, " n"], index: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """∂m/∂a of some features at some rows, active there or not: what they write, times the gradient of it."""
    total = row.new_zeros(len(row), dtype=point.metric.dtype)
    for target, coder in point.model.coders.items():
        if layer not in coder.sources:
            continue
        gradient, decoder = point.written(target).flatten(0, 1), coder.decoder(layer)
        size = max(1, BUDGET // decoder.shape[1])
        parts = [
            (gradient[r] * decoder[i]).sum(-1)
            for r, i in zip(row.split(size), index.split(size), strict=True)
        ]
        total = total + torch.cat(parts).to(total.dtype) if parts else total
    return total


def _dot(change: Tensor, gradient: Tensor) -> Tensor:
    return (change * gradient).sum(-1)
