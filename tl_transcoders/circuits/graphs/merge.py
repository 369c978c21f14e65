"""Graphs of several prompts as one, in which a feature is one node wherever it is active."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.graphs.nodes import OUTSIDE, NodeTable, write
from tl_transcoders.circuits.graphs.scores import summed
from tl_transcoders.circuits.nodes import Embed
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.errors import ConfigError

if TYPE_CHECKING:
    import pandas


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MergedGraph:
    """The mean over graphs, positions added up: a feature is one node, an embedding one for every token of the vocabulary.

        effect[T ← S] = 1/n Σ_graphs Σ effect[t ← s]     over all positions of T and of S; 0 in graphs without the edge

    `count` says in how many graphs a node or an edge is, so that effect · n / count is the mean where it is.
    """

    n_graphs: int
    names: tuple[str, ...]
    """`f3.1207`, `e3`, `embed 'France'`, `token 'Paris'`."""
    count: Int[Tensor, " node"]
    activation: Float[Tensor, " node"]
    """Of features: the mean over graphs of the sum over positions."""
    influence: Float[Tensor, " node"]
    target: Int[Tensor, " edge"]
    source: Int[Tensor, " edge"]
    effect: Float[Tensor, " edge"]
    edge_count: Int[Tensor, " edge"]

    def __repr__(self) -> str:
        return f"MergedGraph({self.n_graphs} graphs: {len(self.names)} nodes, {len(self.effect)} edges)"

    def top(self, n: int, *, least: int = 1) -> list[tuple[str, str, float, int]]:
        """The n strongest edges that are in `least` graphs or more: source, target, effect and count."""
        check_sizes("MergedGraph.top", n=n, least=least)
        size = self.effect.abs() * (self.edge_count >= least)
        best = size.topk(min(n, int((size > 0).sum()))).indices.tolist()
        return [self._named(i) for i in best]

    def to_pandas(self) -> "tuple[pandas.DataFrame, pandas.DataFrame]":
        """Nodes `name count activation influence` and edges `source target effect count`."""
        from pandas import DataFrame

        columns = {
            "name": self.names,
            "count": self.count.tolist(),
            "activation": self.activation.tolist(),
            "influence": self.influence.tolist(),
        }
        edges = [self._named(i) for i in range(len(self.effect))]
        return DataFrame(columns), DataFrame(edges, columns=["source", "target", "effect", "count"])

    def _named(self, i: int) -> tuple[str, str, float, int]:
        source, target = self.names[int(self.source[i])], self.names[int(self.target[i])]
        return source, target, float(self.effect[i]), int(self.edge_count[i])


def merge(graphs: Sequence[Graph]) -> MergedGraph:
    """One graph of many prompts, features apart from where they are active.

    Prune the graphs first, or edges of every prompt's noise are in it. Error and MLP nodes are one for every layer.

    **Raises:** ConfigError for no graphs, or graphs of models with different numbers of layers.

    ```python
    merged = merge([tlt.attribution_graph(spliced, prompt).prune() for prompt in prompts])
    merged.top(10, least=3)
    ```
    """
    graphs = (graphs,) if isinstance(graphs, Graph) else tuple(graphs)
    check_alike("merge", *graphs)
    places = [_without_positions(graph) for graph in graphs]
    rows, where = torch.unique(torch.cat(places), dim=0, return_inverse=True)
    parts = where.split([len(place) for place in places])
    n = len(rows)
    count, activation, influence = torch.zeros(n, dtype=torch.long), torch.zeros(n), torch.zeros(n)
    edges: list[tuple[Tensor, Tensor, Tensor]] = []
    for graph, part in zip(graphs, parts, strict=True):
        count[part.unique()] += 1
        activation.index_add_(0, part, graph.activation.float() / len(graphs))
        influence.index_add_(0, part, graph.influence().float() / len(graphs))
        edges.append(summed(part[graph.target.long()], part[graph.source.long()], graph.effect, n))
    target, source, effect = (torch.cat(parts) for parts in zip(*edges, strict=True))
    _, _, edge_count = summed(target, source, torch.ones_like(effect), n)
    target, source, effect = summed(target, source, effect, n)
    return MergedGraph(
        n_graphs=len(graphs),
        names=tuple(_name(row, graphs) for row in rows.tolist()),
        count=count,
        activation=activation,
        influence=influence,
        target=target,
        source=source,
        effect=effect / len(graphs),
        edge_count=edge_count.long(),
    )


def check_alike(what: str, *graphs: Graph) -> None:
    """Raises ConfigError for no graphs, or graphs of models with different numbers of layers."""
    for graph in graphs:
        if not isinstance(graph, Graph):
            raise ConfigError(what, got=repr(graph)[:80], expected="graphs", do="Make them first.")
    layers = sorted({graph.n_layers for graph in graphs})
    if len(layers) != 1:
        raise ConfigError(
            what,
            got=f"graphs of models with {' and '.join(map(str, layers))} layers"
            if layers
            else "no graph",
            expected="graphs of one model",
            do="Make them with one model.",
        )


def _without_positions(graph: Graph) -> Int[Tensor, "node 5"]:
    """The rows of its nodes, OUTSIDE for every position; an embedding has its token for an index."""
    rows = graph.nodes.rows.clone()
    embed = graph.nodes.is_a("embed")
    rows[embed, 3] = graph.tokens[graph.nodes.pos[embed]].long()
    rows[:, 2] = OUTSIDE
    return rows


def _name(row: list[int], graphs: Sequence[Graph]) -> str:
    (node,) = NodeTable(torch.tensor([row]))
    if isinstance(node, Embed):
        token = row[3]
        for graph in graphs:
            (here,) = (graph.tokens == token).nonzero(as_tuple=True)
            if len(here):
                return f"embed {graph.words[int(here[0])]!r}"
    text = write(node).removesuffix(f"@{OUTSIDE}")
    known: dict[int, str] = {i: word for graph in graphs for i, word in graph.vocabulary.items()}
    if text.startswith("token"):
        return " − ".join(f"{name} {known.get(int(name[5:]), '')!r}" for name in text.split("-"))
    return text
