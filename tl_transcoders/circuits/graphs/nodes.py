"""The nodes of a graph: those of circuits, biases, and what a graph explains; all of them as rows of integers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, Mlp, parse_node, write_node
from tl_transcoders.errors import ConfigError


@final
@dataclass(frozen=True, slots=True)
class Bias:
    """All that a layer adds whatever the prompt; of layer `n_layers`, the final norm's and the unembedding's."""

    layer: int


@final
@dataclass(frozen=True, slots=True)
class Token:
    """logit(token) less the mean of all logits, before any soft cap."""

    token: int
    pos: int = -1


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """logit(good) − logit(bad), before any soft cap."""

    good: int
    bad: int
    pos: int = -1


GraphNode = Embed | Feature | Error | Mlp | Head | Bias | Token | Difference
Outcome = Token | Difference | Feature
"""What a graph explains."""

KINDS: Final = ("embed", "feature", "error", "mlp", "bias", "token", "difference", "head")
OUTSIDE: Final = -1
"""Position of a bias, which is one node for all positions."""


@final
@dataclass(frozen=True, slots=True)
class NodeTable:
    """Nodes as rows `kind layer pos index other`, so that a graph of many is a few tensors."""

    rows: Int[Tensor, "node 5"]

    @classmethod
    def of(cls, nodes: Iterable[GraphNode], n_layers: int) -> "NodeTable":
        """The table of some nodes; logits stand in the layer after the last."""
        return cls(
            torch.tensor([row(node, n_layers) for node in nodes], dtype=torch.long).view(-1, 5)
        )

    @classmethod
    def joined(cls, tables: Iterable["NodeTable"]) -> "NodeTable":
        """One table after the other."""
        return cls(torch.cat([table.rows for table in tables]))

    @classmethod
    def features(cls, layer: int, pos: Int[Tensor, " n"], index: Int[Tensor, " n"]) -> "NodeTable":
        """Features of a layer."""
        kind = torch.full_like(pos, KINDS.index("feature"))
        return cls(
            torch.stack([kind, torch.full_like(pos, layer), pos, index, torch.zeros_like(pos)], 1)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> GraphNode:
        return _node(*self.rows[i].tolist())

    def __iter__(self) -> Iterator[GraphNode]:
        return (_node(*values) for values in self.rows.tolist())

    @property
    def layer(self) -> Int[Tensor, " node"]:
        """The layer of every node."""
        return self.rows[:, 1]

    @property
    def depth(self) -> Int[Tensor, " node"]:
        """An order in which every edge goes up: heads of a layer, then what its MLP reads and writes."""
        return 2 * self.layer + ~self.is_a("head")

    @property
    def pos(self) -> Int[Tensor, " node"]:
        """Its position; OUTSIDE for biases."""
        return self.rows[:, 2]

    @property
    def index(self) -> Int[Tensor, " node"]:
        """Which feature, head, or token."""
        return self.rows[:, 3]

    def is_a(self, *kinds: str) -> Bool[Tensor, " node"]:
        """Which of them are of these kinds."""
        wanted = torch.tensor([KINDS.index(kind) for kind in kinds], device=self.rows.device)
        return torch.isin(self.rows[:, 0], wanted)

    def take(self, chosen: Tensor) -> "NodeTable":
        """Some of the rows, by number or mask."""
        return NodeTable(self.rows[chosen])

    def find(self, node: GraphNode | str, n_layers: int) -> int:
        """The number of a node; raises ConfigError where it is none of these."""
        wanted = torch.tensor(row(node, n_layers), device=self.rows.device)
        (found,) = (self.rows == wanted).all(1).nonzero(as_tuple=True)
        if not len(found):
            raise ConfigError(
                "graph",
                got=f"{node if isinstance(node, str) else write(node)}, which is no node of it",
                expected="one of graph.nodes",
                do="Raise max_features, or name it among the targets.",
            )
        return int(found[0])


def write(node: GraphNode) -> str:
    """The text of a node, a label in tables and files."""
    match node:
        case Bias(layer):
            return f"b{layer}"
        case Token(token, pos):
            return f"token{token}@{pos}"
        case Difference(good, bad, pos):
            return f"token{good}-token{bad}@{pos}"
        case _:
            return write_node(node)


def row(node: GraphNode | str, n_layers: int) -> tuple[int, ...]:
    """A node, or its text, as integers; OUTSIDE stands for a position that is not given.

    **Raises:** ConfigError for what is no node of graphs.
    """
    match parse_node(node) if isinstance(node, str) else node:
        case Embed(pos):
            found = "embed", 0, pos, 0, 0
        case Feature(layer, index, pos):
            found = "feature", layer, pos, index, 0
        case Error(layer, pos):
            found = "error", layer, pos, 0, 0
        case Mlp(layer, pos):
            found = "mlp", layer, pos, 0, 0
        case Head(layer, head, _, pos):
            found = "head", layer, pos, head, 0
        case Bias(layer):
            found = "bias", layer, OUTSIDE, 0, 0
        case Token(token, pos):
            found = "token", n_layers, pos, token, 0
        case Difference(good, bad, pos):
            found = "difference", n_layers, pos, good, bad
        case _:
            raise ConfigError(
                "graph",
                got=repr(node),
                expected="a node of a graph, such as tlt.Feature(3, 7, 5), or its text, f3.7@5",
                do="Take one of graph.nodes.",
            )
    kind, layer, pos, index, other = found
    return KINDS.index(kind), layer, OUTSIDE if pos is None else pos, index, other


def _node(kind: int, layer: int, pos: int, index: int, other: int) -> GraphNode:
    match KINDS[kind]:
        case "embed":
            return Embed(pos)
        case "feature":
            return Feature(layer, index, pos)
        case "error":
            return Error(layer, pos)
        case "mlp":
            return Mlp(layer, pos)
        case "bias":
            return Bias(layer)
        case "head":
            return Head(layer, index, None, pos)
        case "token":
            return Token(index, pos)
        case _:
            return Difference(index, other, pos)
