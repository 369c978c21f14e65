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


def steps(
    depth: Int[Tensor, " node"], target: Int[Tensor, " edge"], *, descending: bool
) -> tuple[Int[Tensor, " n"], ...]:
    """The edges, by the depth of their targets; what one step finds of a node is done when a later one needs it."""
    of = depth.short()[target.long()]
    order = of.argsort(descending=descending, stable=True)
    counts = torch.bincount(of.long())
    counts = counts[counts > 0].tolist()
    return order.split(counts[::-1] if descending else counts) if counts else ()


def influence(
    depth: Int[Tensor, " node"],
    target: Int[Tensor, " edge"],
    source: Int[Tensor, " edge"],
    share: Float[Tensor, " edge"],
    weight: Float[Tensor, " node"],
) -> Float[Tensor, " node"]:
    """w (S + S² + S³ + …), S the shares: one look at every edge, the deepest targets first."""
    found = torch.zeros_like(weight, dtype=torch.float64)
    for edges in steps(depth, target, descending=True):
        ends = target[edges].long()
        found.index_add_(0, source[edges].long(), (found + weight)[ends] * share[edges])
    return found


def total_effects(
    depth: Int[Tensor, " node"],
    target: Int[Tensor, " edge"],
    source: Int[Tensor, " edge"],
    effect: Float[Tensor, " edge"],
    activation: Float[Tensor, " node"],
    outcomes: Int[Tensor, " outcome"],
) -> Float[Tensor, "node outcome"]:
    """E[s, o] = Σ_t effect[t ← s] · ∂pre(o)/∂pre(t), an active feature t passing on E[t, o] / activation[t]."""
    found = torch.zeros(len(depth), len(outcomes), dtype=torch.float64)
    passing = torch.where(activation == 0, 0.0, 1 / activation.double())
    own = torch.zeros_like(found)
    own[outcomes, torch.arange(len(outcomes))] = 1
    for edges in steps(depth, target, descending=True):
        ends = target[edges].long()
        onward = own[ends] + found[ends] * passing[ends, None]
        found.index_add_(0, source[edges].long(), onward * effect[edges].double()[:, None])
    return found
