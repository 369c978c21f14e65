"""How much of an answer a graph explains."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.influence import influence, shares
from tl_transcoders.circuits.graphs.nodes import KINDS, NodeTable
from tl_transcoders.errors import ConfigError

if TYPE_CHECKING:
    from tl_transcoders.circuits.graphs.graph import Graph


@final
@dataclass(frozen=True, slots=True)
class Scores:
    """Shares between 0 and 1; errors are those of transcoders, and MLPs that no transcoder replaces.

        replacement  = influence of embeddings / (that + influence of errors)
        completeness = Σ_t (influence + weight)(t) · (1 − share of what flows into t that comes from errors) / Σ_t (…)

    Source: Ameisen et al. 2025, Circuit Tracing, section 5.
    """

    replacement: float
    completeness: float


def scores(graph: "Graph") -> Scores:
    """Of a graph as it is; raises ConfigError where its splice dropped the errors."""
    _check_errors(graph)
    table = graph.nodes
    flows = ~table.is_a("bias")[graph.source.long()]
    target, source = graph.target[flows].long(), graph.source[flows].long()
    share = shares(target, graph.effect[flows], len(table))
    found = influence(table.depth, target, source, share, graph.weight)
    unexplained = table.is_a("error", "mlp")
    from_errors = share.new_zeros(len(table))
    from_errors.index_add_(0, target, share * unexplained[source])
    embeds, errors = float(found[table.is_a("embed")].sum()), float(found[unexplained].sum())
    weight = found + graph.weight
    return Scores(
        replacement=embeds / (embeds + errors) if embeds + errors else float("nan"),
        completeness=float((weight * (1 - from_errors)).sum() / weight.sum()),
    )


def subgraph_scores(graph: "Graph", kept: Bool[Tensor, " node"]) -> Scores:
    """Of the same run, had its transcoders had only the features that are kept.

    What other features write is then part of the error of their layer and position: their edges are added to its.
    """
    _check_errors(graph)
    return scores(_merged(graph, kept | ~graph.nodes.is_a("feature") | (graph.weight > 0)))


def _merged(graph: "Graph", kept: Bool[Tensor, " node"]) -> "Graph":
    """The graph whose features are kept or part of an error, which is added where it is missing."""
    table, n_pos = graph.nodes, len(graph.tokens)
    (gone,) = (~kept).nonzero(as_tuple=True)
    place = table.layer * n_pos + table.pos
    error = torch.full((graph.n_layers * n_pos,), -1)
    (errors,) = table.is_a("error").nonzero(as_tuple=True)
    error[place[errors]] = errors
    missing = place[gone][error[place[gone]] < 0].unique()
    error[missing] = len(table) + torch.arange(len(missing))
    into = torch.arange(len(table))
    into[gone] = error[place[gone]]
    alive = kept[graph.target.long()]
    n = len(table) + len(missing)
    target, source, effect = summed(
        graph.target[alive].long(), into[graph.source[alive].long()], graph.effect[alive], n
    )
    more = (0, len(missing))
    pad = torch.nn.functional.pad
    return replace(
        graph,
        nodes=NodeTable.joined([table, _errors(missing, n_pos)]),
        activation=pad(graph.activation, more),
        weight=pad(graph.weight, more),
        value=pad(graph.value, more, value=float("nan")),
        left_out=pad(graph.left_out, more),
        target=target,
        source=source,
        effect=effect,
    )


def summed(
    target: Int[Tensor, " edge"],
    source: Int[Tensor, " edge"],
    effect: Float[Tensor, " edge"],
    n: int,
) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Every pair of ends once, with the sum of its effects."""
    pair, where = torch.unique(target.long() * n + source.long(), return_inverse=True)
    total = effect.new_zeros(len(pair)).index_add_(0, where, effect)
    return pair // n, pair % n, total


def _errors(place: Int[Tensor, " n"], n_pos: int) -> NodeTable:
    zero = torch.zeros_like(place)
    kind = torch.full_like(place, KINDS.index("error"))
    return NodeTable(torch.stack([kind, place // n_pos, place % n_pos, zero, zero], 1))


def _check_errors(graph: "Graph") -> None:
    if graph.errors == "drop":
        raise ConfigError(
            "Graph scores",
            got='a graph of a splice with error="drop", which has no errors to compare with',
            expected="a graph with errors",
            do='Splice with error="keep".',
        )
