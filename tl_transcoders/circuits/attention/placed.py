"""Vectors of several nodes at places of the residual stream: what they write, or what they read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attention.passage import Passage
from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.graphs.nodes import (
    Difference,
    GraphNode,
    NodeTable,
    Token,
    write,
)
from tl_transcoders.circuits.graphs.readers import read
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, Mlp
from tl_transcoders.errors import ConfigError

Spot = Literal["pre", "mid", "post"]
"""Before a block, between its attention and its MLP, behind its MLP."""
Place = tuple[int, Spot]


@final
@dataclass(frozen=True, slots=True)
class Placed:
    """Vectors of n nodes. `rows[place]` holds which node, at which position (None: `[pos d_model]`, at all), and what."""

    n: int
    rows: dict[Place, list[tuple[int, int | None, Tensor]]] = field(default_factory=dict)

    def put(self, place: Place, row: int, pos: int | None, vector: Tensor) -> None:
        """Add the vector of a node."""
        self.rows.setdefault(place, []).append((row, pos, vector))

    @property
    def first(self) -> int:
        """The first layer at which there is anything."""
        return min((layer for layer, _ in self.rows), default=0)

    def at(
        self, place: Place, like: Float[Tensor, "pos d_model"]
    ) -> Float[Tensor, "n pos d_model"] | None:
        """All of them at a place; None where there is nothing."""
        if place not in self.rows:
            return None
        dense = like.new_zeros(self.n, *like.shape)
        for row, pos, vector in self.rows[place]:
            dense[row, slice(None) if pos is None else pos] += vector
        return dense


def as_nodes(graph: Graph, nodes: Sequence[GraphNode | str], what: str) -> list[GraphNode]:
    """Nodes of a graph, or their texts; raises ConfigError for those that it does not have."""
    if isinstance(nodes, str | GraphNode):
        raise ConfigError(
            what, got=repr(nodes), expected="a list of nodes", do="Put it into a list."
        )
    for node in nodes:
        if isinstance(node, str):
            graph.number(node)
            continue
        if not isinstance(node, GraphNode) or (isinstance(node, Head) and node.reader):
            raise ConfigError(
                what,
                got=repr(node),
                expected="nodes of the graph",
                do="Choose an edge as graph.top() gives them.",
            )
        graph.number(node)
    return [graph.nodes[graph.number(node)] for node in nodes]


def written(passage: Passage, nodes: Sequence[GraphNode], what: str) -> Placed:
    """What nodes add to the stream; raises ConfigError for those that are no source at a position."""
    found = Placed(len(nodes))
    for row, node in enumerate(nodes):
        _write(found, passage, row, node, what)
    return found


def reading(passage: Passage, target: GraphNode, what: str) -> tuple[Placed, int]:
    """What a target reads, and the number of layers whose attention lies before it.

    **Raises:** ConfigError for what reads nothing.
    """
    frame, found = passage.frame, Placed(1)
    spot: Spot = "pre"
    match target:
        case Token(_, pos) | Difference(_, _, pos):
            layer = before = frame.n_layers
        case Feature(layer, _, pos) if pos is not None and frame.swap(layer) is not None:
            beside = passage.parallel(layer)
            spot, before = "pre" if beside else "mid", layer + (not beside)
        case _:
            raise ConfigError(
                what,
                got=f"the target {write(target)}",
                expected="a token, a difference of tokens, or a feature at a position",
                do="Choose a target of the graph, as graph.top() gives them.",
            )
    reader = read(frame, NodeTable.of([target], frame.n_layers))
    found.put((layer, spot), 0, pos, reader.vector[0])
    return found, before


def _write(found: Placed, passage: Passage, row: int, node: GraphNode, what: str) -> None:
    frame = passage.frame
    match node:
        case Embed(pos) if pos is not None:
            found.put((0, "pre"), row, pos, frame.run.embed[0, pos].to(frame.dtype))
        case Feature(layer, index, pos) if pos is not None:
            activation = frame.run.column(layer, index)[0, pos].to(frame.dtype)
            for later, swap in frame.run.model.swaps.items():
                if layer in swap.sources:
                    vector = swap.decoder(layer)[index].to(frame.dtype) * activation
                    found.put((later, "post"), row, pos, _behind(passage, later, pos, vector))
        case Error(layer, pos) if pos is not None and ("error", layer) in frame.run.values:
            vector = frame.value("error", layer)[pos]
            found.put((layer, "post"), row, pos, _behind(passage, layer, pos, vector))
        case Mlp(layer, pos) if pos is not None:
            vector = frame.value("mlp_raw", layer)[pos]
            found.put((layer, "post"), row, pos, _behind(passage, layer, pos, vector))
        case Head(layer, head, None, pos) if pos is not None:
            found.put((layer, "mid"), row, pos, passage.heads[layer].each()[pos, head])
        case _:
            raise ConfigError(
                what,
                got=f"the source {write(node)}",
                expected="an embedding, feature, error, MLP or head at a position",
                do="Choose a source of the graph, as graph.top() gives them; biases are at no position.",
            )


def _behind(passage: Passage, layer: int, pos: int, vector: Tensor) -> Tensor:
    """What the MLP of a layer writes becomes this behind its post-norm."""
    post = passage.frame.block(layer).ln2_post
    return vector if post is None else post.push(passage.frame.value("mlp_raw", layer)[pos], vector)


def first_layer(source: GraphNode) -> int:
    """The first layer whose attention sees what a source writes."""
    match source:
        case Feature(layer) | Error(layer) | Mlp(layer) | Head(layer):
            return layer + 1
        case _:
            return 0
