"""Rows of a graph in which some heads are nodes: what goes through them is theirs, and nobody else's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attention.descent import descend
from tl_transcoders.circuits.attention.passage import Passage
from tl_transcoders.circuits.attention.placed import Placed
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.circuits.graphs.readers import read
from tl_transcoders.circuits.graphs.sources import Sources
from tl_transcoders.circuits.nodes import Head


@final
@dataclass(frozen=True, slots=True)
class Readings:
    """What targets read, below which layer they begin, their biases by layer, and their values."""

    placed: Placed
    before: int
    bias: Float[Tensor, "n layer"]
    value: Float[Tensor, " n"]

    @classmethod
    def of(cls, passage: Passage, targets: NodeTable) -> "Readings":
        """Those of features and outcomes."""
        frame, n = passage.frame, len(targets)
        like = frame.run.embed.new_empty(0, dtype=frame.dtype)
        found = cls(
            Placed(n),
            _before(passage, targets),
            like.new_zeros(n, frame.n_layers + 1),
            like.new_zeros(n),
        )
        for layer, pos in targets.rows[:, 1:3].unique(dim=0).tolist():
            (rows,) = ((targets.layer == layer) & (targets.pos == pos)).nonzero(as_tuple=True)
            reader = read(frame, targets.take(rows))
            spot = "pre" if layer == frame.n_layers or passage.parallel(layer) else "mid"
            for row, vector in zip(rows.tolist(), reader.vector, strict=True):
                found.placed.put((layer, spot), row, pos, vector)
            found.bias[rows, layer] += reader.bias
            found.value[rows] = reader.value
        return found


@final
@dataclass(frozen=True, slots=True)
class Swept:
    """Rows of n targets: scores of sources, of biases, of chosen heads, and the gradients of what these mix."""

    nodes: Float[Tensor, "n source"]
    bias: Float[Tensor, "n layer"]
    heads: Float[Tensor, "n chosen"]
    gradient: Float[Tensor, "n chosen d_head"]


def sweep(passage: Passage, sources: Sources, reading: Readings, chosen: Sequence[Head]) -> Swept:
    """Targets on their way down through a passage in which the chosen heads are cut."""
    frame, n = passage.frame, reading.placed.n
    like = frame.run.embed[0].to(frame.dtype)
    d_head = frame.block(0).attention.W_O.shape[1]
    found = Swept(
        like.new_zeros(n, len(sources.table)),
        reading.bias.clone(),
        like.new_zeros(n, len(chosen)),
        like.new_zeros(n, len(chosen), d_head),
    )
    pre = reading.placed.at((0, "pre"), like)
    for level in descend(passage, reading.placed, reading.before):
        layer, heads, pre = level.layer, passage.heads[level.layer], level.pre
        for written in sources.written(layer):
            theirs = sources.layers[written.source]
            for pos in range(frame.length):
                here, numbers = theirs.at(pos), slice(theirs.start[pos], theirs.start[pos + 1])
                found.nodes[:, numbers] += level.post[:, pos] @ written.vectors[here].T
        own = heads.bias() + heads.write(heads.value_bias()[None])[0]
        found.bias[:, layer] += level.post.flatten(1) @ sources.bias(layer).flatten()
        found.bias[:, layer] += level.mid.flatten(1) @ own.flatten()
        for i, head in enumerate(chosen):
            if head.layer == layer:
                found.gradient[:, i] = level.z[:, head.pos, head.head]
                found.heads[:, i] = level.z[:, head.pos, head.head] @ heads.z[head.pos, head.head]
    if pre is not None:
        found.nodes[:, : frame.length] = torch.einsum("npd,pd->np", pre, like)
    return found


def strengths(
    passage: Passage, reading: Readings, share: Float[Tensor, " n"]
) -> Float[Tensor, "layer pos head"]:
    """Σ_t share[t] |what each head at each position does to t|, heads that come after it included."""
    frame = passage.frame
    n_heads = frame.block(0).attention.n_heads
    found = torch.zeros(frame.n_layers, frame.length, n_heads, dtype=torch.float64)
    for level in descend(passage, reading.placed, reading.before):
        effect = (level.z * passage.heads[level.layer].z).sum(-1).abs().cpu().double()
        found[level.layer] = torch.einsum("n,nqh->qh", share, effect)
    return found


def _before(passage: Passage, targets: NodeTable) -> int:
    """The layer above all whose attention they see."""
    layer = int(targets.layer.max())
    return layer if layer == passage.n_layers or passage.parallel(layer) else layer + 1
