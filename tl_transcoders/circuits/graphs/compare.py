"""Two graphs side by side."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.graphs.merge import check_alike
from tl_transcoders.circuits.graphs.nodes import GraphNode, NodeTable, write
from tl_transcoders.circuits.sizes import check_sizes

if TYPE_CHECKING:
    import pandas


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """The nodes and edges of two graphs, and which has which; an effect is 0 where a graph has no such edge."""

    nodes: NodeTable
    in_a: Bool[Tensor, " node"]
    in_b: Bool[Tensor, " node"]
    target: Int[Tensor, " edge"]
    source: Int[Tensor, " edge"]
    effect_a: Float[Tensor, " edge"]
    effect_b: Float[Tensor, " edge"]
    edge_in_a: Bool[Tensor, " edge"]
    edge_in_b: Bool[Tensor, " edge"]

    def __repr__(self) -> str:
        nodes = f"{int((self.in_a & self.in_b).sum())} nodes in both, {len(self.only_a)} and {len(self.only_b)} in one"
        both = int((self.edge_in_a & self.edge_in_b).sum())
        alone = int((~self.edge_in_b).sum()), int((~self.edge_in_a).sum())
        return f"Comparison({nodes}; {both} edges in both, {alone[0]} and {alone[1]} in one)"

    @property
    def only_a(self) -> tuple[GraphNode, ...]:
        """Nodes that the first graph has alone."""
        return tuple(self.nodes.take(~self.in_b))

    @property
    def only_b(self) -> tuple[GraphNode, ...]:
        """Nodes that the second graph has alone."""
        return tuple(self.nodes.take(~self.in_a))

    def top(self, n: int) -> list[tuple[GraphNode, GraphNode, float, float]]:
        """The n edges that differ most: source, target, and the effect in either graph."""
        check_sizes("Comparison.top", n=n)
        best = (self.effect_a - self.effect_b).abs().topk(min(n, len(self.target))).indices
        return [
            (
                self.nodes[int(self.source[i])],
                self.nodes[int(self.target[i])],
                float(self.effect_a[i]),
                float(self.effect_b[i]),
            )
            for i in best
        ]

    def to_pandas(self) -> "pandas.DataFrame":
        """Edges `source target effect_a effect_b difference in_a in_b`, difference being b − a."""
        from pandas import DataFrame

        names = [write(node) for node in self.nodes]
        columns = {
            "source": [names[i] for i in self.source.tolist()],
            "target": [names[i] for i in self.target.tolist()],
            "effect_a": self.effect_a.tolist(),
            "effect_b": self.effect_b.tolist(),
            "difference": (self.effect_b - self.effect_a).tolist(),
            "in_a": self.edge_in_a.tolist(),
            "in_b": self.edge_in_b.tolist(),
        }
        return DataFrame(columns)


def compare(a: Graph, b: Graph) -> Comparison:
    """What two graphs of a model share and where they differ: of two prompts of one length, or two splices.

    Nodes are the same where kind, layer, position and index are; embeddings where their position is.

    **Raises:** ConfigError for graphs of models with different numbers of layers.
    """
    check_alike("compare", a, b)
    rows, where = torch.unique(torch.cat([a.nodes.rows, b.nodes.rows]), dim=0, return_inverse=True)
    places = where.split([len(a.nodes), len(b.nodes)])
    n = len(rows)
    keys = [
        place[graph.target.long()] * n + place[graph.source.long()]
        for graph, place in zip((a, b), places, strict=True)
    ]
    pairs, edge = torch.unique(torch.cat(keys), return_inverse=True)
    of_edges = edge.split([len(a.effect), len(b.effect)])
    nodes = [torch.zeros(n, dtype=torch.bool).index_fill(0, place, True) for place in places]
    edges = [torch.zeros(len(pairs), dtype=torch.bool).index_fill(0, e, True) for e in of_edges]
    effects = [
        graph.effect.new_zeros(len(pairs)).index_copy(0, e, graph.effect)
        for graph, e in zip((a, b), of_edges, strict=True)
    ]
    return Comparison(
        nodes=NodeTable(rows),
        in_a=nodes[0],
        in_b=nodes[1],
        target=pairs // n,
        source=pairs % n,
        effect_a=effects[0],
        effect_b=effects[1],
        edge_in_a=edges[0],
        edge_in_b=edges[1],
    )
