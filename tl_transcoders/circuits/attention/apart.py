"""What a linear reading of the residual stream gets from each thing that was written there, heads as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attention.passage import Passage
from tl_transcoders.circuits.graphs.nodes import Bias, NodeTable
from tl_transcoders.circuits.graphs.sources import Sources
from tl_transcoders.circuits.nodes import Head


@final
@dataclass(frozen=True, slots=True)
class Parts:
    """A reading of the stream at one position, as a sum over nodes of that position and biases."""

    nodes: NodeTable
    value: Float[Tensor, "source e"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """A reading at every position, as a sum over sources, heads of earlier layers, and biases.

    `bias[:, l]` is what layer l adds whatever it reads, besides the value biases of heads, which heads write.
    """

    sources: Sources
    layer: int
    nodes: Float[Tensor, "source e"]
    """By the number of the source; 0 for those of later layers."""
    heads: Float[Tensor, "pos earlier head e"]
    bias: Float[Tensor, "pos upto e"]

    @classmethod
    def joined(cls, parts: Sequence["Apart"]) -> "Apart":
        """Several readings side by side."""
        nodes, heads, bias = (
            torch.cat(part, dim=-1)
            for part in zip(*((p.nodes, p.heads, p.bias) for p in parts), strict=True)
        )
        first = parts[0]
        return cls(sources=first.sources, layer=first.layer, nodes=nodes, heads=heads, bias=bias)

    def at(self, pos: int) -> Parts:
        """The sum at a position."""
        number = [pos]
        for nodes in self.sources.layers[: self.layer]:
            number += range(nodes.start[pos], nodes.start[pos + 1])
        earlier, n_heads = self.heads.shape[1:3]
        heads = (Head(layer, h, None, pos) for layer in range(earlier) for h in range(n_heads))
        biases = (Bias(layer) for layer in range(self.layer + 1))
        n_layers = self.sources.frame.n_layers
        return Parts(
            NodeTable.joined(
                [
                    self.sources.table.take(torch.tensor(number)),
                    NodeTable.of(heads, n_layers),
                    NodeTable.of(biases, n_layers),
                ]
            ),
            torch.cat([self.nodes[number], self.heads[pos].flatten(0, 1), self.bias[pos]]),
        )


def split_readings(
    passage: Passage, sources: Sources, layer: int, g: Float[Tensor, "e pos d_model"]
) -> Apart:
    """Readings `g` of the stream before a layer, position by position: through skip connections, not through heads."""
    frame, biases = passage.frame, []
    nodes = g.new_zeros(len(sources.table), len(g))
    heads = []
    for below in reversed(range(layer)):
        for written in sources.written(below):
            theirs = sources.layers[written.source]
            for pos in range(frame.length):
                here, numbers = theirs.at(pos), slice(theirs.start[pos], theirs.start[pos + 1])
                nodes[numbers] += written.vectors[here] @ g[:, pos].T
        bias = torch.einsum("pd,epd->pe", sources.bias(below), g)
        passed = passage.skip_back(below, g)
        pre = g if passed is None else g + passed
        mid = g if passage.parallel(below) else pre
        own = passage.heads[below]
        heads.append(torch.einsum("phd,epd->phe", own.each(), mid))
        biases.append(bias + torch.einsum("pd,epd->pe", own.bias(), mid))
        g = pre
    embedded = torch.einsum("pd,epd->pe", frame.run.embed[0].to(g.dtype), g)
    nodes[: frame.length] = embedded
    n_heads = frame.block(layer).attention.n_heads
    none = [g.new_zeros(g.shape[1], 0, n_heads, len(g))]
    return Apart(
        sources=sources,
        layer=layer,
        nodes=nodes,
        heads=torch.stack(heads[::-1], dim=1) if heads else none[0],
        bias=torch.stack([*biases[::-1], torch.zeros_like(embedded)], dim=1),
    )
