"""The nodes of a graph: those of circuits, biases, and what a graph explains; all of them as rows of integers."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_transcoders.circuits.nodes import (
    Embed,
    Error,
    Feature,
    Head,
    Mlp,
    Node,
    parse_node,
    write_node,
)
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
_BIAS_OR_OUTCOME: Final = re.compile(
    r"b(\d{1,9})|token(\d{1,9})(?:-token(\d{1,9}))?(?:@(-?\d{1,9}))?", re.ASCII
)
LARGEST: Final = 2**62
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

    def goes_up(
        self, source: Int[Tensor, " edge"], target: Int[Tensor, " edge"]
    ) -> Bool[Tensor, " edge"]:
        """Whether edges lead to something that reads, from something written before it."""
        depth, reads = self.depth, self.is_a("feature", "head", "token", "difference")
        depth[self.is_a("embed")] = -1
        depth[self.is_a("bias")] -= 2  # of a layer's features, too
        return (depth[source] < depth[target]) & reads[target]

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

    def find(self, node: GraphNode | str, n_layers: int, n_pos: int) -> int:
        """The number of a node; raises ConfigError where it is none of these."""
        wanted = torch.tensor(row(node, n_layers, n_pos), device=self.rows.device)
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


def parse(text: str) -> GraphNode | Node:
    """The node that a text stands for: `parse(write(node)) == node`; raises ConfigError where it stands for none."""
    found = _BIAS_OR_OUTCOME.fullmatch(text.strip())
    if found is None:
        return parse_node(text)
    layer, *tokens, at = found.groups()
    if layer is not None:
        return Bias(int(layer))
    pos = -1 if at is None else int(at)
    ids = [int(token) for token in tokens if token is not None]
    return Token(*ids, pos=pos) if len(ids) == 1 else Difference(*ids, pos=pos)


def row(node: GraphNode | str, n_layers: int, n_pos: int | None = None) -> tuple[int, ...]:
    """A node, or its text, as integers; OUTSIDE stands for a position that is not given.

    Negative positions count from the end of the `n_pos` positions.

    **Raises:** ConfigError for what is no node of graphs, or a position that a prompt of `n_pos` tokens does not have.
    """
    kind, layer, pos, index, other = _fields(node, n_layers)
    if max(map(abs, (layer, pos or 0, index, other))) > LARGEST:
        raise _refusal(node)
    if pos is None:
        pos = OUTSIDE
    elif n_pos is not None and kind != "bias":
        pos = _inside(node, pos, n_pos)
    return KINDS.index(kind), layer, pos, index, other


def _fields(node: GraphNode | Node | str, n_layers: int) -> tuple[str, int, int | None, int, int]:
    """Kind, layer, position, index and other index."""
    match parse(node) if isinstance(node, str) else node:
        case Embed(pos):
            return "embed", 0, pos, 0, 0
        case Feature(layer, index, pos):
            return "feature", layer, pos, index, 0
        case Error(layer, pos):
            return "error", layer, pos, 0, 0
        case Mlp(layer, pos):
            return "mlp", layer, pos, 0, 0
        case Head(layer, head, None, pos):
            return "head", layer, pos, head, 0
        case Bias(layer):
            return "bias", layer, OUTSIDE, 0, 0
        case Token(token, pos):
            return "token", n_layers, pos, token, 0
        case Difference(good, bad, pos):
            return "difference", n_layers, pos, good, bad
        case _:
            raise _refusal(node)


def _refusal(node: object) -> ConfigError:
    return ConfigError(
        "graph",
        got=repr(node),
        expected="a node of a graph, such as tlt.Feature(3, 7, 5), or its text, f3.7@5",
        do="Take one of graph.nodes.",
    )


def _inside(node: GraphNode | str, pos: int, n_pos: int) -> int:
    if not -n_pos <= pos < n_pos:
        raise ConfigError(
            "graph",
            got=f"{node if isinstance(node, str) else write(node)}, which is no node of it",
            expected=f"a position of the prompt, 0 to {n_pos - 1}",
            do="Choose a position of the prompt; −1 is its last.",
        )
    return pos % n_pos


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
