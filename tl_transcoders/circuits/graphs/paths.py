"""The strongest paths between two nodes of a graph: exact, layer by layer, since no edge leads downwards."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.influence import shares, steps
from tl_transcoders.circuits.graphs.nodes import GraphNode
from tl_transcoders.errors import ConfigError

if TYPE_CHECKING:
    from tl_transcoders.circuits.graphs.graph import Graph

By = Literal["share", "effect"]


@final
@dataclass(frozen=True, slots=True)
class GraphPath:
    """Nodes from a source to a target, the effects of the edges between them, and how strong the path is."""

    nodes: tuple[GraphNode, ...]
    effects: tuple[float, ...]
    strength: float


def strongest_paths(graph: "Graph", source: int, target: int, *, k: int, by: By) -> list[GraphPath]:
    """The k strongest paths between two nodes, by number; fewer where there are fewer."""
    if k < 1:
        raise ConfigError("Graph.paths, k", got=str(k), expected="1 or more", do="Write k=5.")
    if by not in ("share", "effect"):
        raise ConfigError(
            "Graph.paths, by", got=repr(by), expected='"share" or "effect"', do="Choose one."
        )
    factor = _factors(graph, source, by)
    return _Search.of(graph, factor, source, target, k).paths(graph, factor, target)


def _factors(graph: "Graph", source: int, by: By) -> Float[Tensor, " edge"]:
    """What every edge multiplies the strength of a path by, signed; 0 for edges of biases unless they are the source."""
    if by == "share":
        flows = ~graph.nodes.is_a("bias")[graph.source.long()]
        return shares(graph.target, graph.effect * flows, len(graph.nodes))
    start = graph.source.long() == source
    activation = torch.where(start, 1.0, graph.activation[graph.source.long()].double())
    slope = graph.effect.double() / torch.where(activation == 0, 1.0, activation)
    return torch.where(activation == 0, 0.0, slope)


@final
@dataclass(frozen=True, slots=True)
class _Search:
    """The k best ways from the source to every node: how strong, over which edge, and as which way of its source."""

    best: Float[Tensor, "node k"]
    edge: Int[Tensor, "node k"]
    rank: Int[Tensor, "node k"]
    source: int

    @classmethod
    def of(
        cls, graph: "Graph", factor: Float[Tensor, " edge"], source: int, target: int, k: int
    ) -> "_Search":
        n = len(graph.nodes)
        nothing = torch.full((n, k), -1)
        found = cls(torch.zeros(n, k, dtype=torch.float64), nothing, nothing.clone(), source)
        found.best[source, 0] = 1.0
        into = graph.target.long()
        (used,) = (_between(graph, target) & (factor != 0)).nonzero(as_tuple=True)
        for step in steps(graph.nodes.depth, into[used], descending=False):
            edges = used[step]
            found.extend(into[edges], graph.source[edges].long(), factor[edges].abs(), edges)
        return found

    def extend(
        self,
        into: Int[Tensor, " n"],
        outof: Int[Tensor, " n"],
        factor: Float[Tensor, " n"],
        edges: Int[Tensor, " n"],
    ) -> None:
        """The k best ways to the targets of some edges, whose sources are done."""
        k = self.best.shape[1]
        ways = (self.best[outof] * factor[:, None]).flatten()
        (alive,) = (ways > 0).nonzero(as_tuple=True)
        alive = alive[ways[alive].argsort(descending=True, stable=True)]
        alive = alive[into[alive // k].argsort(stable=True)]
        ends, counts = torch.unique_consecutive(into[alive // k], return_counts=True)
        place = torch.arange(len(alive)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        end = ends.repeat_interleave(counts)
        kept = place < k
        alive, end, place = alive[kept], end[kept], place[kept]
        self.best[end, place] = ways[alive]
        self.edge[end, place] = edges[alive // k]
        self.rank[end, place] = alive % k

    def paths(self, graph: "Graph", factor: Float[Tensor, " edge"], target: int) -> list[GraphPath]:
        """Those to a target, followed back."""
        found = []
        for rank in range(int((self.best[target] > 0).sum()) if target != self.source else 0):
            node, nodes, edges = target, [target], []
            while node != self.source:
                edge, rank = int(self.edge[node, rank]), int(self.rank[node, rank])
                node = int(graph.source[edge])
                nodes.insert(0, node)
                edges.insert(0, edge)
            found.append(
                GraphPath(
                    tuple(graph.nodes[i] for i in nodes),
                    tuple(graph.effect[edges].tolist()),
                    float(factor[edges].double().prod()),
                )
            )
        return found


def _between(graph: "Graph", target: int) -> Bool[Tensor, " edge"]:
    """Edges from which something leads to a target."""
    leads = torch.zeros(len(graph.nodes), dtype=torch.bool)
    leads[target] = True
    into, outof = graph.target.long(), graph.source.long()
    for edges in steps(graph.nodes.depth, into, descending=True):
        leads[outof[edges[leads[into[edges]]]]] = True
    return leads[into]
