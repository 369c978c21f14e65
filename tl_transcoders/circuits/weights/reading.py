"""A place where something reads the residual stream of a run, and all that was written there before it, term by term.

    vector · x + bias = value,      x = embedding + Σ what heads, features, skips, errors and whole MLPs wrote + biases

Norm scales and attention patterns are those of the run, exactly. Values are in units of what the path began with.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.frame import Frame, pushed
from tl_transcoders.circuits.graphs.nodes import Difference, Token
from tl_transcoders.circuits.graphs.sources import Sources
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, Mlp
from tl_transcoders.circuits.weights.via import Skip

PathNode = Feature | Head | Skip | Embed | Error | Mlp | Token | Difference
"""What a path passes. A head `a2.h3<v>@5` is what it moves from position 5; the node it leads to says where to."""
KINDS: Final = ("embed", "head", "feature", "skip", "error", "mlp")
KIND, LAYER, POS, INDEX = range(4)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Something that reads the stream at `pos`, behind the first `heads` attention layers and `mlps` MLPs."""

    node: PathNode
    heads: int
    mlps: int
    pos: int
    vector: Float[Tensor, " d_model"]
    bias: float
    value: float


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """What was written where something reads: `rows[n 4]` are kind, layer, position and index of the writers.

    `bias` is what biases of the layers before, and of the reader itself, contribute.
    """

    rows: Int[Tensor, "n 4"]
    value: Float[Tensor, " n"]
    bias: float

    def total(self, *kinds: str) -> float:
        """What all writers of some kinds contribute."""
        wanted = torch.tensor([KINDS.index(kind) for kind in kinds], device=self.rows.device)
        return float(self.value[torch.isin(self.rows[:, KIND], wanted)].sum())


@final
class RunReader:
    """A run on one prompt, read backwards."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self._values = cache(self._values_of)
        self._biases = cache(Sources.of(frame, {}).bias)

    def stream(self, reading: Reading) -> Float[Tensor, " d_model"]:
        """x, what it reads of."""
        frame, layer, pos = self.frame, reading.mlps, reading.pos
        if layer == frame.n_layers:
            return frame.run.resid_final[0, pos].to(frame.dtype)
        spot = "resid_pre" if isinstance(reading.node, Head) else "mlp_in"
        return frame.value(spot, layer)[pos]

    def terms(self, reading: Reading) -> Terms:
        """All that contributes to a reading: Σ value + bias = reading.value."""
        frame, v, pos = self.frame, reading.vector, reading.pos
        rows = [_rows("embed", 0, torch.tensor([pos]), torch.tensor([0]))]
        value = [(frame.run.embed[0, pos].to(frame.dtype) @ v)[None]]
        bias = reading.bias
        for layer in range(reading.heads):
            heads, moved, own = self._attention(layer, reading)
            rows.append(heads)
            value.append(moved)
            bias += own
        for layer in range(reading.mlps):
            found, written, own = self._mlp(layer, reading)
            rows += found
            value += written
            bias += own
        for found, written in self._features(reading):
            rows.append(found)
            value.append(written)
        return Terms(torch.cat(rows).to(v.device), torch.cat(value), bias)

    def follow(self, reading: Reading, row: Int[Tensor, "4"], value: float) -> Reading | PathNode:
        """A writer as a reading of its own; the bare node where it is an end."""
        kind, layer, pos, index = row.tolist()
        match KINDS[kind]:
            case "embed":
                return Embed(pos)
            case "error":
                return Error(layer, pos)
            case "mlp":
                return Mlp(layer, pos)
            case "head":
                return self._head(reading, Head(layer, index, "v", pos), value)
            case "skip":
                return self._skip(reading, Skip(layer, pos), value)
            case _:
                return self._feature(reading, Feature(layer, index, pos), value)

    def _attention(self, layer: int, reading: Reading) -> tuple[Tensor, Tensor, float]:
        frame, pos = self.frame, reading.pos
        block, pattern = frame.block(layer), frame.value("pattern", layer)[:, pos, : pos + 1]
        z = self._pulled(layer, reading)
        moved = pattern * torch.einsum("qhe,he->hq", self._values(layer)[: pos + 1], z)
        n_heads = len(moved)
        rows = _rows(
            "head",
            layer,
            torch.arange(pos + 1).repeat(n_heads),
            torch.arange(n_heads).repeat_interleave(pos + 1),
        )
        mixed = pattern.sum(1)[:, None] * block.value_bias.to(frame.dtype)
        post, raw = block.ln1_post, frame.value("attn_raw", layer)[pos]
        b_O = pushed(post, raw, block.attention.b_O.to(frame.dtype), bias=True)
        return rows, moved.flatten(), float((mixed * z).sum() + b_O @ reading.vector)

    def _mlp(self, layer: int, reading: Reading) -> tuple[list[Tensor], list[Tensor], float]:
        """Whole MLP, or error and skip connection; and what its biases contribute. Features come apart."""
        frame, pos, v = self.frame, reading.pos, reading.vector
        swap = frame.swap(layer)
        at, first = torch.tensor([pos]), torch.tensor([0])
        bias = float(self._biases(layer)[pos] @ v)
        if swap is None or not bool(frame.spliced[pos]):
            whole = self._pushed(layer, pos, frame.value("mlp_raw", layer)[pos])
            return [_rows("mlp", layer, at, first)], [(whole @ v)[None]], bias
        rows, value = [], []
        if ("error", layer) in frame.run.values:
            error = self._pushed(layer, pos, frame.value("error", layer)[pos])
            rows.append(_rows("error", layer, at, first))
            value.append((error @ v)[None])
        if swap.W_skip is not None:
            x = frame.value("mlp_in", layer)[pos]
            rows.append(_rows("skip", layer, at, first))
            value.append((x @ self._skipped(layer, reading))[None])
        return rows, value, bias

    def _features(self, reading: Reading) -> list[tuple[Tensor, Tensor]]:
        found = []
        if not bool(self.frame.spliced[reading.pos]):
            return found
        for source in self.frame.run.model.swaps:
            if source >= reading.mlps:
                continue
            index, active = self._active(source, reading.pos)
            value = self._weights(source, index, reading) * active
            at = torch.full_like(index, reading.pos)
            found.append((_rows("feature", source, at.cpu(), index.cpu()), value))
        return found

    def _active(self, layer: int, pos: int) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        features = self.frame.run.values["features", layer]
        here = (features.rows() == pos) & (features.values != 0)
        return features.indices[here], features.values[here].to(self.frame.dtype)

    def _weights(
        self, source: int, index: Int[Tensor, " n"], reading: Reading
    ) -> Float[Tensor, " n"]:
        """What features of a layer contribute at activation 1."""
        frame, pos = self.frame, reading.pos
        found = reading.vector.new_zeros(len(index))
        for layer, swap in frame.run.model.swaps.items():
            if layer < reading.mlps and source in swap.sources:
                written = swap.decoder(source)[index].to(frame.dtype)
                found = found + self._pushed(layer, pos, written) @ reading.vector
        return found

    def _head(self, reading: Reading, head: Head, value: float) -> Reading:
        frame, layer, pos = self.frame, head.layer, head.pos
        assert pos is not None
        block = frame.block(layer)
        attention = block.attention
        z = self._pulled(layer, reading)[head.head]
        W_V = attention.W_V[head.head // attention.heads_per_group].to(frame.dtype)
        x = frame.value("resid_pre", layer)[pos]
        attended = frame.value("pattern", layer)[head.head, reading.pos, pos]
        vector = block.ln1.pull(x, W_V @ z) * attended
        return Reading(
            node=head, heads=layer, mlps=layer, pos=pos, vector=vector, bias=0.0, value=value
        )

    def _skip(self, reading: Reading, skip: Skip, value: float) -> Reading:
        return Reading(
            node=skip,
            heads=self._before(skip.layer),
            mlps=skip.layer,
            pos=reading.pos,
            vector=self._skipped(skip.layer, reading),
            bias=0.0,
            value=value,
        )

    def _feature(self, reading: Reading, feature: Feature, value: float) -> Reading:
        frame, layer = self.frame, feature.layer
        swap, block = frame.swap(layer), frame.block(layer)
        assert swap is not None
        index = torch.tensor([feature.index], device=frame.run.embed.device)
        weight = self._weights(layer, index, reading)
        row = swap.encoder_rows(index)[0].to(frame.dtype)
        bias = swap.b_enc[feature.index].to(frame.dtype)
        if swap.coder.cfg.read == "mlp_in":
            bias = bias + row @ block.ln2.bias.to(frame.dtype)
        x = frame.value("mlp_in", layer)[reading.pos]
        return Reading(
            node=feature,
            heads=self._before(layer),
            mlps=layer,
            pos=reading.pos,
            vector=swap.pull(block, x, row) * weight,
            bias=float(bias * weight),
            value=value,
        )

    def _before(self, layer: int) -> int:
        """How many attention layers the MLP of a layer reads behind."""
        return layer if self.frame.block(layer).parallel else layer + 1

    def _pulled(self, layer: int, reading: Reading) -> Float[Tensor, "head d_head"]:
        """What heads contribute for a unit of each dimension of z."""
        block, g = self.frame.block(layer), reading.vector
        if block.ln1_post is not None:
            g = block.ln1_post.pull(self.frame.value("attn_raw", layer)[reading.pos], g)
        return block.attention.W_O.to(g.dtype) @ g

    def _skipped(self, layer: int, reading: Reading) -> Float[Tensor, " d_model"]:
        frame, block, swap = self.frame, self.frame.block(layer), self.frame.swap(layer)
        assert swap is not None
        assert swap.W_skip is not None
        g, pos = reading.vector, reading.pos
        if block.ln2_post is not None:
            g = block.ln2_post.pull(frame.value("mlp_raw", layer)[pos], g)
        x = frame.value("mlp_in", layer)[pos]
        return swap.pull(block, x, swap.W_skip.to(g.dtype) @ g)

    def _pushed(
        self, layer: int, pos: int, written: Float[Tensor, "*n d"]
    ) -> Float[Tensor, "*n d"]:
        raw = self.frame.value("mlp_raw", layer)[pos]
        return pushed(self.frame.block(layer).ln2_post, raw, written, bias=False)

    def _values_of(self, layer: int) -> Float[Tensor, "pos head d_head"]:
        """Values of every position, biases left out."""
        block, x = self.frame.block(layer), self.frame.value("resid_pre", layer)
        normed = block.ln1.normalized(x) * block.ln1.gain.to(x.dtype)
        v = torch.einsum("qd,gde->qge", normed, block.attention.W_V.to(x.dtype))
        return v.repeat_interleave(block.attention.heads_per_group, dim=1)


def _rows(
    kind: str, layer: int, pos: Int[Tensor, " n"], index: Int[Tensor, " n"]
) -> Int[Tensor, "n 4"]:
    kinds = torch.full_like(pos, KINDS.index(kind))
    return torch.stack([kinds, torch.full_like(pos, layer), pos, index], dim=1)
