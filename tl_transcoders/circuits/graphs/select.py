"""Some nodes of a graph, named or described."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from tl_transcoders.circuits.graphs.nodes import OUTSIDE, GraphNode, row, write
from tl_transcoders.errors import ConfigError

if TYPE_CHECKING:
    from tl_transcoders.circuits.graphs.graph import Graph

Selection = Callable[[GraphNode], bool] | GraphNode | str | Iterable[GraphNode | str]
"""Nodes or their texts, those without a position at all of them; or a function that says of every node whether it is one."""


def select(graph: "Graph", selection: Selection) -> Bool[Tensor, " node"]:
    """Which nodes these are; raises ConfigError for one that is not in the graph."""
    if callable(selection):
        return torch.tensor([bool(selection(node)) for node in graph.nodes], dtype=torch.bool)
    found = torch.zeros(len(graph.nodes), dtype=torch.bool)
    one = isinstance(selection, str | GraphNode)
    if not one and (isinstance(selection, Mapping) or not isinstance(selection, Iterable)):
        raise ConfigError(
            "graph",
            got=f"a {type(selection).__name__}",
            expected="nodes, or a function that says of a node whether it is one",
            do="Write graph.select([Embed(3), Feature(5, 1207)]).",
        )
    for node in [selection] if one else selection:
        found |= alike(graph, node)
    return found


def alike(graph: "Graph", node: GraphNode | str) -> Bool[Tensor, " node"]:
    """The node, or its kind at all positions where it has none; raises ConfigError where there is no such node."""
    wanted = torch.tensor(row(node, graph.n_layers, len(graph.tokens)))
    same = graph.nodes.rows == wanted
    same[:, 2] |= int(wanted[2]) == OUTSIDE
    found = same.all(1)
    if not found.any():
        raise ConfigError(
            "graph",
            got=f"{node if isinstance(node, str) else write(node)}, which is no node of it",
            expected="some of graph.nodes",
            do="Raise max_features, prune less, or name it among the targets.",
        )
    return found
