"""What writes into the residual stream of a run: embeddings, active features, errors, whole MLPs, and biases."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.bent import Bent
from tl_transcoders.circuits.graphs.frame import Frame, pushed
from tl_transcoders.circuits.graphs.nodes import KINDS, NodeTable
from tl_transcoders.splice.trace.swap import Swap


@final
@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of one layer: numbers `first` to `end`, position by position, `start[pos]` the first of a position."""

    first: int
    pos: Int[Tensor, " node"]
    index: Int[Tensor, " node"]
    """Which feature; −1 for the layer's error or whole MLP, the last of its position."""
    value: Float[Tensor, " node"]
    start: tuple[int, ...]

    @property
    def end(self) -> int:
        """The number after the last."""
        return self.first + len(self.pos)

    def until(self, length: int) -> int:
        """How many of them stand at the first `length` positions."""
        return self.start[length] - self.first

    def at(self, pos: int) -> slice:
        """Those of a position, counted from the first of the layer."""
        return slice(self.start[pos] - self.first, self.start[pos + 1] - self.first)


@final
@dataclass(frozen=True, slots=True)
class Written:
    """What nodes of layer `source` write behind the MLP of some layer, a row for every node of theirs."""

    source: int
    vectors: Float[Tensor, "node d_model"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Every source has a number: first the embeddings, then layer by layer and position by position features and the rest.

    The rest of a layer is its error, or its whole MLP where no transcoder stands.
    """

    frame: Frame
    layers: tuple[Nodes, ...]
    table: NodeTable
    activation: Float[Tensor, " node"]
    bent: Mapping[int, Bent]

    @classmethod
    def of(cls, frame: Frame, bent: Mapping[int, Bent]) -> "Sources":
        """The sources of a run; of linear MLPs the nodes write what is beyond."""
        first, layers, rows = frame.length, [], [_embeddings(frame)]
        for layer in range(frame.n_layers):
            nodes = _nodes(frame, layer, first)
            layers.append(nodes)
            rows.append(_rows(frame, layer, nodes))
            first = nodes.end
        values = [torch.zeros(frame.length, dtype=frame.dtype), *(n.value.cpu() for n in layers)]
        return cls(
            frame=frame,
            layers=tuple(layers),
            table=NodeTable(torch.cat(rows)),
            activation=torch.cat(values),
            bent=bent,
        )

    def written(self, layer: int) -> tuple[Written, ...]:
        """What is written into the stream behind the MLP of a layer."""
        frame, swap, nodes = self.frame, self.frame.swap(layer), self.layers[layer]
        rest = self._rest(layer)[nodes.pos]
        sources = () if swap is None else swap.sources
        found = []
        for source in {*sources, layer}:
            theirs = self.layers[source]
            vectors = torch.zeros_like(rest) if source not in sources else None
            if vectors is None:
                assert swap is not None
                vectors = _decoded(frame, swap, source, theirs)
            if source == layer:
                vectors = torch.where((nodes.index < 0)[:, None], rest, vectors)
            raw = frame.value("mlp_raw", layer)[theirs.pos]
            post = frame.block(layer).ln2_post
            found.append(Written(source, pushed(post, raw, vectors, bias=False)))
        return tuple(found)

    def bias(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """What the MLP of a layer adds whatever it reads: biases of the transcoder and of the norms around it."""
        frame, swap = self.frame, self.frame.swap(layer)
        written = torch.zeros_like(frame.value("mlp_raw", layer))
        if swap is not None:
            own = swap.b_dec.to(frame.dtype)
            if swap.W_skip is not None and swap.coder.cfg.read == "mlp_in":
                bias = frame.block(layer).ln2.bias.to(frame.dtype)
                own = own + bias @ swap.W_skip.to(frame.dtype)
            written = own * frame.spliced[:, None]
        return frame.pushed(layer, written, bias=True)

    def _rest(self, layer: int) -> Float[Tensor, "pos d_out"]:
        if layer in self.bent:
            return self.bent[layer].rest()
        whole = self.frame.value("mlp_raw", layer)
        if self.frame.swap(layer) is None:
            return whole
        error = (
            self.frame.value("error", layer)
            if ("error", layer) in self.frame.run.values
            else torch.zeros_like(whole)
        )
        return torch.where(self.frame.spliced[:, None], error, whole)


def _embeddings(frame: Frame) -> Int[Tensor, "pos 5"]:
    rows = torch.zeros(frame.length, 5, dtype=torch.long)
    rows[:, 0] = KINDS.index("embed")
    rows[:, 2] = torch.arange(frame.length)
    return rows


def _nodes(frame: Frame, layer: int, first: int) -> Nodes:
    """Active features and the rest, in the order of their positions."""
    device = frame.run.embed.device
    pos = index = torch.empty(0, dtype=torch.long, device=device)
    value = torch.empty(0, dtype=frame.dtype, device=device)
    rest = torch.arange(frame.length, device=device)
    if frame.swap(layer) is not None:
        features = frame.run.values["features", layer]
        kept = features.values != 0
        pos, index = features.rows()[kept], features.indices[kept].long()
        value = features.values[kept].to(frame.dtype)
        if ("error", layer) not in frame.run.values:
            rest = rest[~frame.spliced]
    pos = torch.cat([pos, rest])
    index = torch.cat([index, torch.full_like(rest, -1)])
    value = torch.cat([value, value.new_zeros(len(rest))])
    order = pos.argsort(stable=True)
    counts = torch.bincount(pos, minlength=frame.length).cumsum(0) + first
    return Nodes(first, pos[order], index[order], value[order], (first, *counts.tolist()))


def _rows(frame: Frame, layer: int, nodes: Nodes) -> Int[Tensor, "node 5"]:
    """The nodes as rows of a table."""
    pos, index = nodes.pos.cpu(), nodes.index.cpu()
    rest = torch.full_like(pos, KINDS.index("mlp"))
    if frame.swap(layer) is not None:
        rest[frame.spliced.cpu()[pos]] = KINDS.index("error")
    rows = NodeTable.features(layer, pos, index.clamp(min=0)).rows
    rows[:, 0] = torch.where(index < 0, rest, rows[:, 0])
    return rows


def _decoded(frame: Frame, swap: Swap, source: int, nodes: Nodes) -> Float[Tensor, "node d_out"]:
    rows = swap.decoder(source)[nodes.index.clamp(min=0)]
    return rows.to(frame.dtype) * nodes.value[:, None]
