"""Nodes as integers, so that millions of edges fit in tensors."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self, assert_never, final

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.nodes import (
    READERS,
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
)
from tl_transcoders.splice.trace.forward import TracedModel

PADDING: Final = -1
"""The code of no node."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Codebook:
    """An integer from 0 to `total` for every node of a model: families one after the other, each by index."""

    starts: Mapping[tuple[str, int], int]
    total: int
    heads_per_group: int

    @classmethod
    def of(cls, model: TracedModel) -> Self:
        """The integers of a model's nodes."""
        sizes: dict[tuple[str, int], int] = {("embed", 0): 1, ("logits", 0): 1}
        for layer, block in enumerate(model.anatomy.blocks):
            for kind in ("head", *READERS):
                sizes[kind, layer] = block.attention.n_heads
            sizes["mlp", layer] = sizes["error", layer] = 1
            if layer in model.coders:
                sizes["feature", layer] = model.coders[layer].n_features
        starts, total = {}, 0
        for family, size in sizes.items():
            starts[family], total = total, total + size
        shared = model.anatomy.blocks[0].attention.heads_per_group
        return cls(starts=starts, total=total, heads_per_group=shared)

    def first(self, kind: str, layer: int) -> int:
        """The integer of the first node of a family."""
        return self.starts[kind, layer]

    def family(self, kind: str, layer: int, n: int, device: torch.device) -> Int[Tensor, " n"]:
        """The integers of the first n nodes of a family."""
        return torch.arange(n, device=device) + self.first(kind, layer)

    def nodes(
        self, codes: Int[Tensor, " node"], positions: Int[Tensor, " node"]
    ) -> tuple[Node, ...]:
        """The nodes of integers; position −1 stands for none."""
        families, starts = list(self.starts), list(self.starts.values())
        found: list[Node] = []
        for code, pos in zip(codes.tolist(), positions.tolist(), strict=True):
            at = bisect_right(starts, code) - 1
            found.append(_node(*families[at], code - starts[at], None if pos < 0 else pos))
        return tuple(found)

    def of_nodes(self, nodes: Iterable[Node]) -> list[int]:
        """The integers of nodes; the keys or values of a group are those of its heads."""
        found: list[int] = []
        for node in nodes:
            match node:
                case Embed():
                    found.append(self.first("embed", 0))
                case Head(layer, head, reader):
                    found.append(self.first(reader or "head", layer) + head)
                case KeyValue(layer, group, reader):
                    start = self.first(reader, layer) + group * self.heads_per_group
                    found += range(start, start + self.heads_per_group)
                case Mlp(layer):
                    found.append(self.first("mlp", layer))
                case Feature(layer, index):
                    found.append(self.first("feature", layer) + index)
                case Error(layer):
                    found.append(self.first("error", layer))
                case Logits():
                    found.append(self.first("logits", 0))
                case _:
                    assert_never(node)
        return found


def _node(kind: str, layer: int, index: int, pos: int | None) -> Node:
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
