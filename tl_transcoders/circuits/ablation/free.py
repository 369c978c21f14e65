"""What is never ablated, whatever the circuit: given for free, as Marks et al. give the first layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from tl_transcoders.circuits.checks import normal
from tl_transcoders.circuits.nodes import (
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
    parse_node,
)
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice.trace.run import Run

Kind = type[Head] | type[Feature] | type[Error] | type[Mlp]
KINDS: Final = (Head, Feature, Error, Mlp)
Given = Sequence[Node | str | int | Kind]
"""Nodes, layers with all that is in them, and kinds of nodes in every layer."""


@final
@dataclass(frozen=True, slots=True)
class Free:
    """Nodes, layers and kinds of nodes that are never ablated."""

    nodes: tuple[Node, ...] = ()
    layers: frozenset[int] = frozenset()
    kinds: frozenset[Kind] = frozenset()

    def holds(self, kind: Kind, layer: int) -> bool:
        """Whether all nodes of a kind in a layer are free."""
        return kind in self.kinds or layer in self.layers

    def __bool__(self) -> bool:
        return bool(self.nodes or self.layers or self.kinds)


def free_of(given: Given, run: Run) -> Free:
    """What is given, with positions counted from the start.

    **Raises:** ConfigError for what the model lacks and for what writes nothing by itself.
    """
    layers = frozenset(each for each in given if isinstance(each, int))
    kinds = frozenset(each for each in given if each in KINDS)
    for layer in layers:
        normal(Head(layer, 0), run.spliced, run.shape[1])
    nodes: list[Node] = []
    for each in given:
        if isinstance(each, int | type):
            if each not in layers and each not in kinds:
                raise _refusal(each)
            continue
        node = normal(
            parse_node(each) if isinstance(each, str) else each, run.spliced, run.shape[1]
        )
        if isinstance(node, Logits | KeyValue) or (isinstance(node, Head) and node.reader):
            raise _refusal(node)
        nodes.append(node)
    return Free(tuple(nodes), layers, kinds)


def _refusal(got: object) -> ConfigError:
    return ConfigError(
        "given",
        got=f"{got!r}, which writes nothing by itself",
        expected="layers, nodes that write, such as embed, a4.h2 or f3.7, or Head, Feature, Error, Mlp",
        do="Give the head, feature, error or MLP itself.",
    )
