"""Nodes as integers, so that millions of edges fit in tensors."""

from collections.abc import Iterable
from typing import Final, assert_never

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.attribution.score import Kind
from tl_transcoders.circuits.nodes import (
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
)

Coded = Kind | str
ORDER: Final = ("embed", "head", "q", "k", "v", "mlp", "feature", "error", "logits")
LAYERS: Final = 1 << 12
INDICES: Final = 1 << 40
PADDING: Final = -1


def code(kind: Coded, layer: int, index: int = 0) -> int:
    """The integer of a node."""
    return (ORDER.index(kind) * LAYERS + layer) * INDICES + index


def codes(kind: Coded, layer: int, n: int, device: torch.device) -> Int[Tensor, " n"]:
    """The integers of the first n nodes of a family."""
    return torch.arange(n, device=device) + code(kind, layer)


def node_of(coded: int, pos: int | None) -> Node:
    """The node of an integer."""
    family, index = divmod(coded, INDICES)
    kind, layer = ORDER[family // LAYERS], family % LAYERS
    match kind:
        case "embed":
            return Embed(pos)
        case "head":
            return Head(layer, index, None, pos)
        case "q" | "k" | "v":
            return Head(layer, index, kind, pos)
        case "mlp":
            return Mlp(layer, pos)
        case "feature":
            return Feature(layer, index, pos)
        case "error":
            return Error(layer, pos)
        case _:
            return Logits(pos)


def codes_of(nodes: Iterable[Node], heads_per_group: int) -> list[int]:
    """The integers of nodes; the keys or values of a group are those of its heads."""
    found: list[int] = []
    for node in nodes:
        match node:
            case Embed():
                found.append(code("embed", 0))
            case Head(layer, head, reader):
                found.append(code(reader or "head", layer, head))
            case KeyValue(layer, group, reader):
                first = group * heads_per_group
                found += [code(reader, layer, first + i) for i in range(heads_per_group)]
            case Mlp(layer):
                found.append(code("mlp", layer))
            case Feature(layer, index):
                found.append(code("feature", layer, index))
            case Error(layer):
                found.append(code("error", layer))
            case Logits():
                found.append(code("logits", 0))
            case _:
                assert_never(node)
    return found
