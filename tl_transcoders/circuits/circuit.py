"""A circuit: nodes, the edges between them, and what each is worth."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Final, TypeVar, final

from tl_transcoders.circuits.circuit_file import Scored, read, write
from tl_transcoders.circuits.nodes import Edge as Edge
from tl_transcoders.circuits.nodes import (
    Embed,
    Error,
    Head,
    KeyValue,
    Logits,
    Node,
    write_node,
    write_path,
)
from tl_transcoders.circuits.reach import connected
from tl_transcoders.errors import ConfigError, TranscoderFormatError

if TYPE_CHECKING:
    import networkx
    import pandas

COLUMNS: Final = ("name", "kind", "layer", "pos", "sender", "receiver")
Element = TypeVar("Element", Node, Edge)


@final
@dataclass(frozen=True, slots=True, init=False)
class Circuit:
    """Nodes and edges, of which some have a score. The ends of an edge are nodes of the circuit.

    Circuits are sets: `a | b` holds what either holds (the scores of `b` where both have one), `a <= b` says
    whether `b` holds all nodes and edges of `a`.

    **Raises:** ConfigError for an edge that starts at the logits or at an input of a head, ends at the
    embedding, or does not lead anywhere; for scores of other nodes or edges, or that are not finite.

    ```python
    Circuit({Feature(3, 1207)}, {(Feature(3, 1207), Head(4, 2, "k"))})
    ```
    """

    nodes: frozenset[Node] = frozenset()
    edges: frozenset[Edge] = frozenset()
    scores: Mapping[Node | Edge, float] = field(default_factory=dict, hash=False)

    def __init__(
        self,
        nodes: Iterable[Node] = (),
        edges: Iterable[Edge] = (),
        *,
        scores: Mapping[Node | Edge, float] | None = None,
    ) -> None:
        whole = frozenset(edges)
        every = frozenset(nodes).union(*whole)
        for edge in whole:
            _check_edge(edge)
        known = {key: float(score) for key, score in (scores or {}).items()}
        for key, score in known.items():
            _check_score(key, score, known=key in every or key in whole)
        object.__setattr__(self, "nodes", every)
        object.__setattr__(self, "edges", whole)
        object.__setattr__(self, "scores", known)

    # sets

    def __or__(self, other: "Circuit") -> "Circuit":
        return Circuit(
            self.nodes | other.nodes,
            self.edges | other.edges,
            scores={**self.scores, **other.scores},
        )

    def __le__(self, other: "Circuit") -> bool:
        return self.nodes <= other.nodes and self.edges <= other.edges

    def __len__(self) -> int:
        """Number of nodes and edges."""
        return len(self.nodes) + len(self.edges)

    def complement(self, universe: "Circuit") -> "Circuit":
        """The nodes and edges of the universe that this circuit lacks, and the ends of those edges.

            self | self.complement(universe) == universe        where the scores agree

        **Raises:** ConfigError where the universe does not hold this circuit.
        """
        if not self <= universe:
            outside = [*(self.nodes - universe.nodes), *(self.edges - universe.edges)]
            raise ConfigError(
                "complement",
                got=f"{len(outside)} nodes and edges outside the universe, such as {_text(outside[0])}",
                expected="a universe that holds the whole circuit",
                do="Take the complement in a larger universe, such as circuit | universe.",
            )
        edges = universe.edges - self.edges
        return universe._part((universe.nodes - self.nodes).union(*edges), edges)

    # parts

    def where(self, keep: Callable[[Node], bool]) -> "Circuit":
        """The nodes of which `keep` is true, and the edges between them."""
        return self._between(frozenset(filter(keep, self.nodes)), self.edges)

    def restrict(
        self, *, layers: Iterable[int] | None = None, kinds: tuple[type[Node], ...] | None = None
    ) -> "Circuit":
        """The nodes of some layers and kinds, and the edges between them; embed and logits are of every layer."""
        chosen = None if layers is None else frozenset(layers)

        def keep(node: Node) -> bool:
            if kinds is not None and not isinstance(node, kinds):
                return False
            return chosen is None or isinstance(node, Embed | Logits) or node.layer in chosen

        return self.where(keep)

    def top_n(
        self, *, nodes: int | None = None, edges: int | None = None, absolute: bool = True
    ) -> "Circuit":
        """The nodes of largest score, and the edges of largest score between them.

        What has no score does not compete and stays, as does every node where only edges are counted; `prune`
        removes what is then unconnected. Equal scores are taken in the order of their names.
        """
        return self._between(
            self._best(self.nodes, nodes, absolute), self._best(self.edges, edges, absolute)
        )

    def threshold(
        self, *, nodes: float | None = None, edges: float | None = None, absolute: bool = True
    ) -> "Circuit":
        """The nodes whose score is at least `nodes`, and between them the edges whose score is at least `edges`.

        What has no score stays; `prune` removes what is then unconnected.
        """
        return self._between(
            self._above(self.nodes, nodes, absolute), self._above(self.edges, edges, absolute)
        )

    def prune(
        self, *, sources: Iterable[Node] | None = None, heads_per_group: int | None = None
    ) -> "Circuit":
        """What lies on a path from a source to the logits.

        A path goes on from an input of a head to what that head writes: from a query at its own position, from
        a key or value also at later ones.

        **Arguments:** `sources`, by default the embedding and the errors, which no edge explains;
        `heads_per_group`, how many query heads share the keys and values of an `a4.kv0<k>`.

        **Raises:** ConfigError where there is no source, or a group of heads of unknown size.
        """
        starts = self._sources() if sources is None else frozenset(sources)
        kept = connected(self.nodes, self.edges, starts & self.nodes, heads_per_group)
        return self._between(kept, self.edges)

    # files and tables

    def save(self, path: FilePath | str) -> None:
        """Write the circuit to a JSON file, its nodes and edges as text."""
        write(FilePath(path), self._scored(self.nodes), self._scored(self.edges))

    @classmethod
    def load(cls, path: FilePath | str) -> "Circuit":
        """The circuit a file holds; raises TranscoderFormatError where it holds none."""
        nodes, edges = read(FilePath(path))
        scored = [*nodes.items(), *edges.items()]
        try:
            return cls(nodes, edges, scores={key: x for key, x in scored if x is not None})
        except ConfigError as error:
            where = f"{FilePath(path).name}, {error.where}"
            raise TranscoderFormatError(
                where, got=error.got, expected=error.expected, do=error.do
            ) from error

    def to_networkx(self) -> "networkx.DiGraph":
        """A directed graph of the nodes, with attributes `text`, and `score` where there is one."""
        from networkx import DiGraph

        graph = DiGraph()
        for node, score in self._scored(self.nodes).items():
            graph.add_node(node, text=write_node(node), **_attribute(score))
        for (sender, receiver), score in self._scored(self.edges).items():
            graph.add_edge(sender, receiver, **_attribute(score))
        return graph

    def to_dataframe(self) -> "pandas.DataFrame":
        """A row for every node and edge: `name kind layer pos sender receiver score`.

        `kind`, `layer` and `pos` are missing for an edge, `sender` and `receiver` for a node.
        """
        from pandas import DataFrame

        rows = [
            *({"name": write_node(node), **_columns(node)} for node in self._scored(self.nodes)),
            *(
                {
                    "name": write_path(edge),
                    "sender": write_node(edge[0]),
                    "receiver": write_node(edge[1]),
                }
                for edge in self._scored(self.edges)
            ),
        ]
        scores = [*self._scored(self.nodes).values(), *self._scored(self.edges).values()]
        dtypes = dict.fromkeys(("name", "kind", "sender", "receiver"), "string")
        dtypes |= {"layer": "Int64", "pos": "Int64"}
        table = {name: [row.get(name) for row in rows] for name in COLUMNS}
        return DataFrame({**table, "score": scores}).astype({**dtypes, "score": "float64"})

    def _part(self, nodes: frozenset[Node], edges: frozenset[Edge]) -> "Circuit":
        kept = {key: score for key, score in self.scores.items() if key in nodes or key in edges}
        return Circuit(nodes, edges, scores=kept)

    def _between(self, nodes: frozenset[Node], edges: frozenset[Edge]) -> "Circuit":
        return self._part(nodes, frozenset(edge for edge in edges if nodes.issuperset(edge)))

    def _best(
        self, elements: frozenset[Element], n: int | None, absolute: bool
    ) -> frozenset[Element]:
        if n is None:
            return elements
        scored = sorted((e for e in elements if e in self.scores), key=_text)
        best = nlargest(n, scored, key=lambda e: self._size(e, absolute))
        return (elements - frozenset(scored)) | frozenset(best)

    def _above(
        self, elements: frozenset[Element], least: float | None, absolute: bool
    ) -> frozenset[Element]:
        if least is None:
            return elements
        return frozenset(
            e for e in elements if e not in self.scores or self._size(e, absolute) >= least
        )

    def _size(self, element: Node | Edge, absolute: bool) -> float:
        return abs(self.scores[element]) if absolute else self.scores[element]

    def _sources(self) -> frozenset[Node]:
        found = frozenset(node for node in self.nodes if isinstance(node, Embed | Error))
        if found:
            return found
        raise ConfigError(
            "prune",
            got="a circuit without embed or error nodes",
            expected="nodes from which paths start",
            do="Pass sources=....",
        )

    def _scored(self, elements: frozenset[Element]) -> Scored[Element]:
        """Elements in the order of their names, with their scores."""
        return {element: self.scores.get(element) for element in sorted(elements, key=_text)}


def _text(element: Node | Edge) -> str:
    return write_path(element) if isinstance(element, tuple) else write_node(element)


def _attribute(score: float | None) -> dict[str, float]:
    return {} if score is None else {"score": score}


def _columns(node: Node) -> dict[str, object]:
    return {"kind": type(node).__name__, "layer": getattr(node, "layer", None), "pos": node.pos}


def _check_edge(edge: Edge) -> None:
    sender, receiver = edge
    if isinstance(sender, Logits | KeyValue) or (isinstance(sender, Head) and sender.reader):
        fault, expected = "nothing that writes", "embed, a head, feature, error or MLP"
    elif isinstance(receiver, Embed):
        fault, expected = "embed as receiver", "something that reads"
    elif sender == receiver:
        fault, expected = "a node that sends to itself", "two nodes"
    else:
        return
    raise ConfigError(
        f"edge {write_path(edge)}", got=fault, expected=expected, do="Correct the edge."
    )


def _check_score(key: Node | Edge, score: float, *, known: bool) -> None:
    if known and math.isfinite(score):
        return
    raise ConfigError(
        f"score of {_text(key)}",
        got=f"{score}" if known else "no such node or edge",
        expected="a finite number" if known else "nodes and edges of the circuit",
        do="Correct the scores.",
    )
