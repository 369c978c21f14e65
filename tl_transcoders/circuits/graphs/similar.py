"""Features that are wired alike, as groups."""

from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.nodes import GraphNode
from tl_transcoders.errors import ConfigError

if TYPE_CHECKING:
    from tl_transcoders.circuits.graphs.graph import Graph

MOST: Final = 3000


def similar_features(graph: "Graph", least: float) -> dict[str, list[GraphNode]]:
    """Groups of two or more, named by their first feature; by average linkage down to a similarity of `least`.

    **Raises:** ConfigError for a similarity that none can have, or a graph with too many features to compare them all.
    """
    (features,) = graph.nodes.is_a("feature").nonzero(as_tuple=True)
    if not -1 <= least <= 1:
        raise ConfigError(
            "Graph.similar, least",
            got=str(least),
            expected="a mean of cosines, -1 to 1",
            do="Try 0.5.",
        )
    if len(features) > MOST:
        raise ConfigError(
            "Graph.similar",
            got=f"{len(features):,} features",
            expected=f"at most {MOST:,}, which are compared each with each",
            do="Prune the graph first.",
        )
    groups = _linked(similarity(graph, features), least)
    named = ([graph.nodes[int(features[i])] for i in group] for group in groups)
    return {f"{graph.label(group[0])} + {len(group) - 1}": group for group in named}


def similarity(graph: "Graph", nodes: Int[Tensor, " n"]) -> Float[Tensor, "n n"]:
    """The mean of the cosine of what leads into two nodes and the cosine of what they lead to, effects signed.

    Where neither of two has a way in, or out, that cosine is 0.
    """
    place = torch.full((len(graph.nodes),), -1)
    place[nodes] = torch.arange(len(nodes))
    total = torch.zeros(len(nodes), len(nodes), dtype=torch.float64)
    for here, there in ((graph.target, graph.source), (graph.source, graph.target)):
        row = place[here.long()]
        kept = row >= 0
        wires = torch.zeros(len(nodes), len(graph.nodes), dtype=torch.float64)
        wires[row[kept], there[kept].long()] = graph.effect[kept].double()
        wires /= wires.norm(dim=1, keepdim=True).clamp(min=1e-30)
        total += wires @ wires.T / 2
    return total


def _linked(alike: Float[Tensor, "n n"], least: float) -> list[list[int]]:
    """Join the two groups with the largest mean similarity until none reaches `least`."""
    groups = {i: [i] for i in range(len(alike))}
    alike = alike.clone().fill_diagonal_(-torch.inf)
    while len(groups) > 1:
        best = int(alike.argmax())
        a, b = sorted(divmod(best, len(alike)))
        if alike[a, b] < least:
            break
        sizes = len(groups[a]), len(groups[b])
        mean = (sizes[0] * alike[a] + sizes[1] * alike[b]) / sum(sizes)
        alike[a], alike[:, a] = mean, mean
        alike[b], alike[:, b], alike[a, a] = -torch.inf, -torch.inf, -torch.inf
        groups[a] += groups.pop(b)
    return [sorted(group) for group in groups.values() if len(group) > 1]
