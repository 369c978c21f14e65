"""Paths merged into a graph whose nodes add up."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from tl_transcoders.circuits.graphs.nodes import Difference, Token
from tl_transcoders.circuits.weights.paths import Account, Path, Paths, written
from tl_transcoders.circuits.weights.reading import PathNode

if TYPE_CHECKING:
    import networkx

Edge = tuple[PathNode, PathNode]


@final
@dataclass(frozen=True, slots=True, eq=False)
class PathGraph:
    """Nodes of paths, and the edges between them, both in units of the target.

        nodes[n].value = Σ over edges into n + bias + errors + left_out

    `nodes[n].value` is what n contributes by all ways from it to the target that the paths hold, each counted once;
    `edges[source, reader]` what the source contributes through that reader.
    """

    nodes: dict[PathNode, Account]
    edges: dict[Edge, float]

    @classmethod
    def of(cls, paths: Paths | Iterable[Path]) -> "PathGraph":
        """The graph of paths; of filtered ones, with what the filter dropped in `left_out`.

        Source: Dunefsky et al. 2024, algorithm 2; there errors, biases and what is left out are in other units.
        """
        accounts = paths.accounts if isinstance(paths, Paths) else {}
        value: dict[tuple[PathNode, ...], float] = {}
        for path in paths:
            for first, step in enumerate(path.passed):
                value[path.nodes[first:]] = step.value
        edges: dict[Edge, float] = defaultdict(float)
        kept: dict[tuple[PathNode, ...], float] = defaultdict(float)
        for nodes, contribution in value.items():
            if len(nodes) > 1:
                edges[nodes[0], nodes[1]] += contribution
                kept[nodes[1:]] += contribution
        found: dict[PathNode, Account] = {}
        for nodes, contribution in value.items():
            account = _account(contribution, kept[nodes], accounts.get(nodes))
            found[nodes[0]] = _sum(found.get(nodes[0], NOTHING), account)
        return cls(found, dict(edges))

    def over_positions(self) -> "PathGraph":
        """The same without positions: nodes and edges that differ by their positions only are added up."""
        nodes: dict[PathNode, Account] = {}
        for node, account in self.nodes.items():
            bare = _bare(node)
            nodes[bare] = _sum(nodes.get(bare, NOTHING), account)
        edges: dict[Edge, float] = defaultdict(float)
        for (source, reader), value in self.edges.items():
            edges[_bare(source), _bare(reader)] += value
        return PathGraph(nodes, dict(edges))

    def to_networkx(self) -> "networkx.DiGraph":
        """A directed graph whose nodes have `text`, `value`, `bias`, `errors`, `left_out`, and edges `value`."""
        from networkx import DiGraph

        graph = DiGraph()
        for node, account in self.nodes.items():
            graph.add_node(
                node,
                text=written(node),
                value=account.value,
                bias=account.bias,
                errors=account.errors,
                left_out=account.left_out,
            )
        for (source, reader), value in self.edges.items():
            graph.add_edge(source, reader, value=value)
        return graph


NOTHING = Account(value=0.0, kept=0.0, bias=0.0, errors=0.0, left_out=0.0)


def _account(value: float, kept: float, whole: Account | None) -> Account:
    """Of one end; where it was not expanded, or is a source, all of it is left out."""
    bias, errors = (0.0, 0.0) if whole is None else (whole.bias, whole.errors)
    rest = value - kept - bias - errors
    return Account(value=value, kept=kept, bias=bias, errors=errors, left_out=rest)


def _sum(a: Account, b: Account) -> Account:
    return Account(
        value=a.value + b.value,
        kept=a.kept + b.kept,
        bias=a.bias + b.bias,
        errors=a.errors + b.errors,
        left_out=a.left_out + b.left_out,
    )


def _bare(node: PathNode) -> PathNode:
    return node if isinstance(node, Token | Difference) else replace(node, pos=None)
