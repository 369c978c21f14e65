"""How many edges the ways through a graph have."""

from typing import TYPE_CHECKING

from tl_transcoders.circuits.graphs.influence import influence, shares

if TYPE_CHECKING:
    from tl_transcoders.circuits.graphs.graph import Graph


def path_length(graph: "Graph") -> float:
    """The mean number of edges of the ways from embeddings to outcomes, each weighted by its share of influence.

        Σ_k k · (w Sᵏ)[embeddings] / Σ_k (w Sᵏ)[embeddings]        S: shares of |effect|, w: weights of outcomes

    NaN where no way begins at an embedding.

    Source: Ameisen et al. 2025, Circuit Tracing, who compare cross-layer with per-layer transcoders by it.
    """
    flows = ~graph.nodes.is_a("bias")[graph.source.long()]
    target, source = graph.target[flows], graph.source[flows]
    share = shares(target, graph.effect[flows], len(graph.nodes))
    depth = graph.nodes.depth
    reached = influence(depth, target, source, share, graph.weight)
    edges = influence(depth, target, source, share, graph.weight.double() + reached)
    embeds = graph.nodes.is_a("embed")
    return float(edges[embeds].sum() / reached[embeds].sum())
