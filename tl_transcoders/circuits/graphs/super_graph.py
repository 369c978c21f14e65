"""A graph whose nodes are groups of nodes: their edges summed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.nodes import write
from tl_transcoders.circuits.graphs.scores import summed
from tl_transcoders.circuits.graphs.select import Selection, select
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.errors import ConfigError

if TYPE_CHECKING:
    import networkx
    import pandas

    from tl_transcoders.circuits.graphs.graph import Graph


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SuperGraph:
    """Groups of nodes, and what they do to one another directly; a node in no group is one by itself.

        effect[T ← S] = Σ effect[t ← s]  over t in T, s in S        within a group too: T ← T
        value[T] = Σ_S effect[T ← S] + left_out[T]                  the sum of its targets' pre-activations

    `member[node]` is the group of every node of the graph it was made of; `influence` is the sum over its members,
    which counts a way through two of them twice.
    """

    graph: "Graph"
    names: tuple[str, ...]
    member: Int[Tensor, " node"]
    influence: Float[Tensor, " group"]
    value: Float[Tensor, " group"]
    left_out: Float[Tensor, " group"]
    target: Int[Tensor, " edge"]
    source: Int[Tensor, " edge"]
    effect: Float[Tensor, " edge"]

    def __repr__(self) -> str:
        return f"SuperGraph({len(self.names)} groups of {len(self.member)} nodes, {len(self.effect)} edges)"

    @classmethod
    def of(cls, graph: "Graph", groups: Mapping[str, Selection]) -> "SuperGraph":
        """The groups by name, then every other node under its own."""
        names, member = _members(graph, groups)
        n = len(names)
        into, outof = member[graph.target.long()], member[graph.source.long()]
        target, source, effect = summed(into, outof, graph.effect, n)
        return cls(
            graph=graph,
            names=names,
            member=member,
            influence=_over(member, graph.influence(), n),
            value=_over(member, graph.value.nan_to_num(nan=0.0), n),
            left_out=_over(member, graph.left_out, n),
            target=target,
            source=source,
            effect=effect,
        )

    def top(self, n: int) -> list[tuple[str, str, float]]:
        """The n strongest edges between different groups, as source, target and effect."""
        check_sizes("SuperGraph.top", n=n)
        between = self.effect.abs() * (self.target != self.source)
        best = between.topk(min(n, int((between > 0).sum()))).indices.tolist()
        return [self._named(i) for i in best]

    def to_networkx(self) -> "networkx.DiGraph":
        """A directed graph of the names, with attributes `influence`, and edges with `effect`; groups may have cycles."""
        from networkx import DiGraph

        found = DiGraph()
        for name, influence in zip(self.names, self.influence.tolist(), strict=True):
            found.add_node(name, influence=influence)
        for i in range(len(self.effect)):
            source, target, effect = self._named(i)
            found.add_edge(source, target, effect=effect)
        return found

    def to_pandas(self) -> "tuple[pandas.DataFrame, pandas.DataFrame]":
        """Groups `name size influence value left_out` and edges `source target effect`."""
        from pandas import DataFrame

        columns = {
            "name": self.names,
            "size": torch.bincount(self.member, minlength=len(self.names)).tolist(),
            "influence": self.influence.tolist(),
            "value": self.value.tolist(),
            "left_out": self.left_out.tolist(),
        }
        edges = [self._named(i) for i in range(len(self.effect))]
        return DataFrame(columns), DataFrame(edges, columns=["source", "target", "effect"])

    def _named(self, edge: int) -> tuple[str, str, float]:
        source, target = self.names[int(self.source[edge])], self.names[int(self.target[edge])]
        return source, target, float(self.effect[edge])


def _members(
    graph: "Graph", groups: Mapping[str, Selection]
) -> tuple[tuple[str, ...], Int[Tensor, " node"]]:
    """All names, and which of them every node belongs to; raises ConfigError for nodes in two groups, or none in one,
    and for the name of another node.
    """
    if not isinstance(groups, Mapping):
        raise ConfigError(
            "Graph.group",
            got=f"a {type(groups).__name__}",
            expected="groups of nodes by name",
            do='Write graph.group({"years": [Feature(3, 402), Feature(3, 149)]}).',
        )
    member = torch.full((len(graph.nodes),), -1)
    for i, (name, selection) in enumerate(groups.items()):
        chosen = select(graph, selection)
        twice = chosen & (member >= 0)
        if twice.any() or not chosen.any():
            (first, *_) = (*graph.nodes.take(twice), None)
            raise ConfigError(
                f"Graph.group, {name!r}",
                got="no node"
                if first is None
                else f"{graph.label(first)}, which another group has",
                expected="groups of one node or more that share none",
                do="Correct the groups.",
            )
        member[chosen] = i
    (alone,) = (member < 0).nonzero(as_tuple=True)
    member[alone] = len(groups) + torch.arange(len(alone))
    nodes = list(graph.nodes.take(alone))
    labels = [graph.label(node) for node in nodes]
    if taken := groups.keys() & set(map(write, nodes)):
        raise ConfigError(
            "Graph.group",
            got=f"groups named like nodes outside them, {', '.join(sorted(taken))}",
            expected="names of their own",
            do="Give the groups other names.",
        )
    uses = Counter(labels)
    own = (
        label if uses[label] == 1 and label not in groups else write(node)
        for label, node in zip(labels, nodes, strict=True)
    )
    return (*groups, *own), member


def _over(member: Int[Tensor, " node"], values: Tensor, n: int) -> Float[Tensor, " group"]:
    return values.new_zeros(n).index_add_(0, member, values)
