"""Which rows a graph has: all of them, or those of the most influential features up to a budget."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.influence import slot_influence
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.circuits.graphs.sources import NOTHING, Sources
from tl_transcoders.circuits.graphs.sweep import Rows, Sweeper


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """Targets and their rows. `source` says which node of the sources a target is, NOTHING where none."""

    targets: NodeTable
    source: Int[Tensor, " target"]
    rows: list[Rows]


def trace(
    sweeper: Sweeper,
    outcomes: NodeTable,
    weight: Float[Tensor, " outcome"],
    *,
    max_features: int | None,
    per_update: int,
) -> Traced:
    """Rows of the outcomes, and of features in the order of their influence on them, which is brought up to date after
    every `per_update` of them."""
    sources = sweeper.sources
    own = _numbers(sources, outcomes)
    unvisited = sources.table.is_a("feature")
    unvisited[own[own >= 0]] = False
    budget = int(unvisited.sum()) if max_features is None else max_features
    traced = Traced(targets=outcomes, source=own, rows=sweeper.rows(outcomes))
    if budget >= int(unvisited.sum()):
        return _with(traced, sweeper, unvisited.nonzero()[:, 0])
    while budget > 0:
        ranked = _ranked(traced, sources, weight, unvisited)[: min(budget, per_update)]
        unvisited[ranked] = False
        budget -= len(ranked)
        traced = _with(traced, sweeper, ranked.sort().values)
    return traced


def _with(traced: Traced, sweeper: Sweeper, chosen: Int[Tensor, " n"]) -> Traced:
    if not len(chosen):
        return traced
    more = sweeper.sources.table.take(chosen)
    return Traced(
        targets=NodeTable.joined([traced.targets, more]),
        source=torch.cat([traced.source, chosen]),
        rows=traced.rows + sweeper.rows(more, first=len(traced.targets)),
    )


def _ranked(
    traced: Traced,
    sources: Sources,
    weight: Float[Tensor, " outcome"],
    unvisited: Bool[Tensor, " node"],
) -> Int[Tensor, " n"]:
    """Features without a row, the most influential first."""
    slots = sources.node.flatten()
    (filled,) = (slots != NOTHING).nonzero(as_tuple=True)
    slot = torch.full((len(traced.targets),), NOTHING)
    there = traced.source >= 0
    slot[there] = filled[traced.source[there]]
    weights = weight.new_zeros(len(traced.targets))
    weights[: len(weight)] = weight
    found = slot_influence(traced.rows, slot, weights, sources.node.shape).flatten()[filled]
    candidates = unvisited.nonzero()[:, 0]
    return candidates[found[candidates].argsort(descending=True, stable=True)]


def _numbers(sources: Sources, outcomes: NodeTable) -> Int[Tensor, " outcome"]:
    """Which of the sources each outcome is: only an active feature is one."""
    found = torch.full((len(outcomes),), NOTHING)
    for i, row in enumerate(outcomes.rows):
        (same,) = (sources.table.rows == row).all(1).nonzero(as_tuple=True)
        found[i] = same[0] if len(same) else NOTHING
    return found
