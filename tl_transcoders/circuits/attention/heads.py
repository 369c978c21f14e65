"""The attention of a layer with its pattern and its norms' scales frozen, head by head: linear, in both directions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs.frame import Frame, pushed
from tl_transcoders.circuits.nodes import Head
from tl_transcoders.hosts import Block


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """x ↦ Σ_h z_h W_O[h],  z_h = A_h (x γ₁ / σ₁) W_V[h]; a post-norm multiplies by γ / σ.

    Heads that are `cut` (at a position, or without one at all of them) pass nothing on.
    """

    block: Block
    x: Float[Tensor, "pos d_model"]
    """What the run's attention read, whose scale is kept."""
    written: Float[Tensor, "pos d_model"]
    """What it wrote, before a post-norm."""
    z: Float[Tensor, "pos head d_head"]
    """What the run's heads mixed, biases included."""
    pattern: Float[Tensor, "head query key"]

    @classmethod
    def of(cls, frame: Frame, layer: int, cut: Iterable[Head] = ()) -> "Heads":
        """Those of a layer."""
        pattern = frame.value("pattern", layer)
        here = [head for head in cut if head.layer == layer]
        if here:
            pattern = pattern.clone()
        for head in here:
            pattern[head.head, slice(None) if head.pos is None else head.pos] = 0
        return cls(
            block=frame.block(layer),
            x=frame.value("resid_pre", layer),
            written=frame.value("attn_raw", layer),
            z=frame.value("z", layer),
            pattern=pattern,
        )

    def mix(self, change: Float[Tensor, "n pos d_model"]) -> Float[Tensor, "n pos head d_head"]:
        """What every head mixes of a change of the stream before attention."""
        attention = self.block.attention
        normed = self.block.ln1.push(self.x, change)
        v = torch.einsum("nkd,gde->nkge", normed, attention.W_V.to(normed.dtype))
        pattern = self.pattern.unflatten(0, (attention.n_groups, attention.heads_per_group))
        return torch.einsum("ghqk,nkge->nqghe", pattern, v).flatten(2, 3)

    def write(self, z: Float[Tensor, "n pos head d_head"]) -> Float[Tensor, "n pos d_model"]:
        """What heads that mixed z add to the stream, biases apart."""
        W_O = self.block.attention.W_O.flatten(0, 1).to(z.dtype)
        return pushed(self.block.ln1_post, self.written, z.flatten(2) @ W_O, bias=False)

    def write_one(
        self, z: Float[Tensor, "n d_head"], head: int, pos: int
    ) -> Float[Tensor, "n d_model"]:
        """The same of one head at one position."""
        raw = z @ self.block.attention.W_O[head].to(z.dtype)
        return pushed(self.block.ln1_post, self.written[pos], raw, bias=False)

    def each(self) -> Float[Tensor, "pos head d_model"]:
        """What every head of the run writes into the stream, the biases of its values included."""
        W_O = self.block.attention.W_O.to(self.z.dtype)
        raw = torch.einsum("qhe,hed->qhd", self.z, W_O)
        return pushed(self.block.ln1_post, self.written[:, None], raw, bias=False)

    def bias(self) -> Float[Tensor, "pos d_model"]:
        """What attention adds besides its heads: the biases of its output and of its post-norm."""
        own = self.block.attention.b_O.to(self.z.dtype).expand_as(self.written)
        return pushed(self.block.ln1_post, self.written, own, bias=True)

    def value_bias(self) -> Float[Tensor, "pos head d_head"]:
        """What heads mix of the biases of their values and of the norm before them."""
        return torch.einsum("hqk,he->qhe", self.pattern, self.block.value_bias.to(self.z.dtype))

    def read(self, g: Float[Tensor, "n pos d_model"]) -> Float[Tensor, "n pos head d_head"]:
        """The gradient of z from that of the stream behind attention."""
        post, W_O = self.block.ln1_post, self.block.attention.W_O
        g = g if post is None else post.pull(self.written, g)
        return (g @ W_O.flatten(0, 1).T.to(g.dtype)).unflatten(2, W_O.shape[:2])

    def pull(self, gz: Float[Tensor, "n pos head d_head"]) -> Float[Tensor, "n pos d_model"]:
        """The gradient of the stream before attention from that of z."""
        attention = self.block.attention
        by_group = gz.unflatten(2, (attention.n_groups, attention.heads_per_group))
        pattern = self.pattern.unflatten(0, (attention.n_groups, attention.heads_per_group))
        v = torch.einsum("ghqk,nqghe->nkge", pattern, by_group)
        normed = torch.einsum("nkge,gde->nkd", v, attention.W_V.to(v.dtype))
        return self.block.ln1.pull(self.x, normed)
