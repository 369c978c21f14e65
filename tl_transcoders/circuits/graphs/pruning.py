"""The part of a graph that carries most of its influence."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_transcoders.circuits.graphs.influence import influence, shares
from tl_transcoders.errors import ConfigError

if TYPE_CHECKING:
    from tl_transcoders.circuits.graphs.graph import Graph


def prune(graph: "Graph", *, node: float, edge: float) -> "Graph":
    """Nodes, then edges among them, then what these leave without a way."""
    for name, share in (("node", node), ("edge", edge)):
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise ConfigError(
                f"Graph.prune, {name}",
                got=str(share),
                expected="a share, above 0 and at most 1",
                do="Write graph.prune(node=0.8, edge=0.98).",
            )
    always = graph.nodes.is_a("embed", "bias") | (graph.weight > 0)
    nodes = always | largest(graph.influence(), node)
    target, source = graph.target.long(), graph.source.long()
    edges = nodes[target] & nodes[source]
    edges &= graph.nodes.is_a("bias")[source] | _strong(graph, edges, edge)
    nodes = _connected(graph, nodes, edges)
    edges &= nodes[target] & nodes[source]
    return subgraph(graph, nodes, edges)


def largest(values: Float[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
    """The fewest of them that sum to a share of the sum, and those as large as the least of these."""
    if share >= 1 or not len(values):
        return torch.ones_like(values, dtype=torch.bool)
    ordered = values.sort(descending=True).values
    n = int((ordered.cumsum(0) < share * ordered.sum()).sum())
    return values >= ordered[min(n, len(ordered) - 1)]


def subgraph(graph: "Graph", nodes: Bool[Tensor, " node"], edges: Bool[Tensor, " edge"]) -> "Graph":
    """Some nodes and some edges among them; what other edges did to the targets is left out."""
    number = nodes.cumsum(0) - 1
    gone = ~edges
    left_out = graph.left_out.index_add(0, graph.target[gone].long(), graph.effect[gone])
    return replace(
        graph,
        nodes=graph.nodes.take(nodes),
        activation=graph.activation[nodes],
        weight=graph.weight[nodes],
        value=graph.value[nodes],
        left_out=left_out[nodes],
        target=number[graph.target[edges].long()].to(graph.target.dtype),
        source=number[graph.source[edges].long()].to(graph.source.dtype),
        effect=graph.effect[edges],
    )


def _strong(graph: "Graph", among: Bool[Tensor, " edge"], share: float) -> Bool[Tensor, " edge"]:
    """The edges that carry most of the influence among these."""
    among = among & ~graph.nodes.is_a("bias")[graph.source.long()]
    target, source = graph.target[among], graph.source[among]
    part = shares(target, graph.effect[among], len(graph.nodes))
    found = influence(graph.nodes.depth, target, source, part, graph.weight)
    kept = torch.zeros_like(among)
    kept[among] = largest(part * (found + graph.weight)[target.long()], share)
    return kept


def _connected(
    graph: "Graph", nodes: Bool[Tensor, " node"], edges: Bool[Tensor, " edge"]
) -> Bool[Tensor, " node"]:
    """Without features that nothing leads to, and without features and errors that lead to nothing."""
    table = graph.nodes
    needs_in = table.is_a("feature", "head") & (graph.weight == 0)
    needs_out = table.is_a("feature", "error", "mlp", "head") & (graph.weight == 0)
    target, source = graph.target.long(), graph.source.long()
    flows = edges & ~table.is_a("bias")[source]
    while True:
        live = flows & nodes[target] & nodes[source]
        reached, leading = torch.zeros_like(nodes), torch.zeros_like(nodes)
        reached[target[live]] = True
        leading[source[live]] = True
        kept = nodes & (reached | ~needs_in) & (leading | ~needs_out)
        if torch.equal(kept, nodes):
            return nodes
        nodes = kept
