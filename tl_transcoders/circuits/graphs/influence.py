"""How much of what a graph explains passes through each node: the sum over all ways of shares along them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def shares(
    target: Int[Tensor, " edge"], effect: Float[Tensor, " edge"], n: int
) -> Float[Tensor, " edge"]:
    """|effect| of every edge over the sum of those into its target."""
    size = effect.abs().double()
    total = size.new_zeros(n).index_add_(0, target.long(), size)
    return size / total[target.long()].clamp(min=1e-30)


def influence(
    layer: Int[Tensor, " node"],
    target: Int[Tensor, " edge"],
    source: Int[Tensor, " edge"],
    share: Float[Tensor, " edge"],
    weight: Float[Tensor, " node"],
) -> Float[Tensor, " node"]:
    """w (S + S² + S³ + …), S the shares: one look at every edge, the targets of the last layers first."""
    found = torch.zeros_like(weight, dtype=torch.float64)
    of = layer[target.long()]
    order = of.argsort(descending=True, stable=True)
    counts = torch.unique(of, return_counts=True)[1].flip(0).tolist()
    for edges in order.split(counts) if counts else ():
        ends = target[edges].long()
        found.index_add_(0, source[edges].long(), (found + weight)[ends] * share[edges])
    return found
