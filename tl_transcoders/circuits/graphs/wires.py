"""Attention with its pattern and its norms' scales frozen: a linear map of the residual stream, and its transpose."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs.frame import Frame, pushed
from tl_transcoders.hosts import Block


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Wires:
    """The frozen attention of a layer, its norms folded in: x ↦ Σ_h A_h x W_V W_O + bias.

    `pattern[group, key, head of the group, query]` holds A / (σ of ln1 at the key · σ of ln1_post at the query).
    """

    W_O: Float[Tensor, "z d_model"]
    W_V: Float[Tensor, "v d_model"]
    pattern: Float[Tensor, "group key head query"]
    bias: Float[Tensor, "pos d_model"]

    def add_pulled(self, g: Float[Tensor, "n pos d_model"], buffers: "Buffers") -> None:
        """Adds to the gradient of the stream after attention what attention passes back, in place."""
        n, pos, width = g.shape
        groups, _, heads, _ = self.pattern.shape
        flat = g.view(n * pos, width)
        z = torch.mm(flat, self.W_O.T, out=buffers.take(0, n * pos, len(self.W_O)))
        by_group = buffers.take(1, groups * heads * pos, n * (len(self.W_O) // (groups * heads)))
        by_group = by_group.view(groups, heads, pos, n, -1)
        by_group.copy_(z.view(n, pos, groups, heads, -1).permute(2, 3, 1, 0, 4))
        pattern = self.pattern[:, :pos, :, :pos].reshape(groups, pos, heads * pos)
        v = buffers.take(0, groups, pos, n * by_group.shape[-1])
        torch.bmm(pattern, by_group.view(groups, heads * pos, -1), out=v)
        by_row = buffers.take(1, n, pos, groups, by_group.shape[-1])
        by_row.copy_(v.view(groups, pos, n, -1).permute(2, 1, 0, 3))
        flat.addmm_(by_row.view(n * pos, -1), self.W_V)


@final
class Buffers:
    """Memory that every step of a sweep uses again: fresh pages cost more than the arithmetic on them."""

    def __init__(self, size: int, like: Tensor) -> None:
        self._memory = [like.new_empty(size), like.new_empty(size)]

    def take(self, which: int, *shape: int) -> Tensor:
        """A part of one of the two, in a shape."""
        return self._memory[which][: torch.Size(shape).numel()].view(shape)


def wires(frame: Frame, layer: int) -> Wires:
    """The frozen attention of a layer."""
    block = frame.block(layer)
    attention, post = block.attention, block.ln1_post
    raw = frame.value("attn_raw", layer)
    found = frame.value("pattern", layer)
    pattern = found.unflatten(0, (attention.n_groups, attention.heads_per_group))
    scale = block.ln1.scale(frame.value("resid_pre", layer))
    pattern = pattern.permute(0, 3, 1, 2) / scale[None, :, None]
    W_O = attention.W_O.flatten(0, 1).to(frame.dtype)
    if post is not None:
        pattern = pattern / post.scale(raw)[:, 0]
        W_O = post.centre(W_O) * post.gain
    W_V = attention.W_V.transpose(1, 2).flatten(0, 1).to(frame.dtype)
    return Wires(
        W_O=W_O.contiguous(),
        W_V=block.ln1.centre(W_V * block.ln1.gain),
        pattern=pattern.contiguous(),
        bias=pushed(post, raw, _bias(block, found), bias=True),
    )


def _bias(block: Block, pattern: Float[Tensor, "head query key"]) -> Float[Tensor, "query d_model"]:
    """What heads write of their own: the biases of the norm before them, of their values, of their output."""
    attention = block.attention
    v = torch.einsum("d,gde->ge", block.ln1.bias, attention.W_V) + attention.b_V
    v = v.repeat_interleave(attention.heads_per_group, dim=0).to(pattern.dtype)
    z = torch.einsum("hqk,he->qhe", pattern, v)
    return z.flatten(1) @ attention.W_O.flatten(0, 1).to(z.dtype) + attention.b_O
