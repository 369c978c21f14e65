"""Which rows a graph has: all of them, or those of the most influential features up to a budget."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.sweep import Sweeper


def trace(
    sweeper: Sweeper,
    outcomes: Int[Tensor, " outcome"],
    weight: Float[Tensor, " outcome"],
    *,
    max_features: int | None,
    per_update: int,
) -> Int[Tensor, " target"]:
    """The numbers of all targets: the outcomes, and features in the order of their influence on them.

    Influence is brought up to date after every `per_update` features. Their rows are computed, if they were not.
    """
    table, n_sources = sweeper.circuitry.sources.table, sweeper.rows.n_sources
    unvisited = table.is_a("feature")
    unvisited[outcomes[outcomes < n_sources]] = False
    left = int(unvisited.sum())
    budget = left if max_features is None else min(max_features, left)
    sweeper.start(sweeper.best_cut(budget))
    sweeper.compute(outcomes)
    if budget == left:
        chosen = torch.cat([outcomes, unvisited.nonzero()[:, 0]])
        sweeper.compute(chosen)
        return chosen
    chosen = outcomes
    while budget > 0:
        ranked = _ranked(sweeper, chosen, weight, unvisited)[: min(budget, per_update)]
        unvisited[ranked] = False
        budget -= len(ranked)
        sweeper.compute(ranked)
        chosen = torch.cat([chosen, ranked.sort().values])
    return chosen


def _ranked(
    sweeper: Sweeper,
    chosen: Int[Tensor, " target"],
    weight: Float[Tensor, " outcome"],
    unvisited: Bool[Tensor, " source"],
) -> Int[Tensor, " n"]:
    """Features without a row here, the most influential first."""
    weights = torch.zeros(len(sweeper.rows.done), dtype=torch.float64)
    weights[chosen[: len(weight)]] = weight
    among = torch.zeros_like(sweeper.rows.done)
    among[chosen] = True
    found = sweeper.rows.influence(among, weights)
    candidates = unvisited.nonzero()[:, 0]
    return candidates[found[candidates].argsort(descending=True, stable=True)]
