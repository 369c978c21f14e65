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

    `pattern[group, key, query, head of the group]` holds A / (σ of ln1 at the key · σ of ln1_post at the query). States
    are `[pos d_model n]`, n of them side by side, so that no step has to copy one into another order. Products are
    computed in the weights' dtype, and added up in the state's.
    """

    W_O: Float[Tensor, "z d_model"]
    """Rows: head of the group, group, dimension of the head."""
    W_V: Float[Tensor, "v d_model"]
    """Rows: group, dimension of the head."""
    pattern: Float[Tensor, "group key query head"]
    bias: Float[Tensor, "pos d_model"]

    def add_pulled(self, g: Float[Tensor, "pos d_model n"], buffers: "Buffers") -> None:
        """Adds to the gradients of the stream after attention what attention passes back to the first positions, in place."""
        length, _, n = g.shape
        z = _product(self.W_O, g, buffers.take(0, length, len(self.W_O), n))
        v = buffers.take(1, length, len(self.W_V), n)
        self._mix(slice(0, length), z, v, back=True)
        _add_product(g, self.W_V.T, v)

    def add_pushed(self, x: Float[Tensor, "pos d_model n"], first: int, buffers: "Buffers") -> None:
        """Adds to the stream what attention makes of it, in place; `first` is its first position."""
        length, _, n = x.shape
        v = _product(self.W_V, x, buffers.take(1, length, len(self.W_V), n))
        z = buffers.take(0, length, len(self.W_O), n)
        self._mix(slice(first, first + length), z, v, back=False)
        _add_product(x, self.W_O.T, z)

    def _mix(self, at: slice, z: Tensor, v: Tensor, *, back: bool) -> None:
        """v from z (back) or z from v: group by group one product over positions and heads."""
        pattern = self.pattern[:, at, at]
        groups, length, _, heads = pattern.shape
        of_z = z.view(length * heads, groups, -1)
        of_v = v.view(length, groups, -1)
        for group, weights in enumerate(pattern.reshape(groups, length, length * heads)):
            if back:
                torch.mm(weights, of_z[:, group], out=of_v[:, group])
            else:
                torch.mm(weights.T, of_v[:, group], out=of_z[:, group])


def _product(matrix: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """matrix @ x at every position."""
    return torch.bmm(matrix.expand(len(x), *matrix.shape), x.to(matrix.dtype), out=out)


def _add_product(x: Tensor, matrix: Tensor, y: Tensor) -> None:
    """x += matrix @ y at every position."""
    wide = matrix.expand(len(x), *matrix.shape)
    if x.dtype == matrix.dtype:
        x.baddbmm_(wide, y)
    else:
        x += torch.bmm(wide, y)


@final
class Buffers:
    """Memory that every step of every sweep uses again: fresh pages cost more than the arithmetic on them."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._memory = [torch.empty(0, dtype=dtype, device=device) for _ in range(2)]

    def take(self, which: int, *shape: int) -> Tensor:
        """A part of one of the two, in a shape."""
        size = torch.Size(shape).numel()
        if len(self._memory[which]) < size:
            like = self._memory[which]
            self._memory[which] = torch.empty(0)
            self._memory[which] = like.new_empty(size)
        return self._memory[which][:size].view(shape)


def wires(frame: Frame, layer: int, dtype: torch.dtype) -> Wires:
    """The frozen attention of a layer, for products in a dtype."""
    block = frame.block(layer)
    attention, post = block.attention, block.ln1_post
    raw = frame.value("attn_raw", layer)
    found = frame.value("pattern", layer)
    pattern = found.unflatten(0, (attention.n_groups, attention.heads_per_group))
    scale = block.ln1.scale(frame.value("resid_pre", layer))
    pattern = pattern.permute(0, 3, 2, 1) / scale[None, :, None]
    W_O = attention.W_O.unflatten(0, (attention.n_groups, attention.heads_per_group))
    W_O = W_O.transpose(0, 1).flatten(0, 2).to(frame.dtype)
    if post is not None:
        pattern = pattern / post.scale(raw)
        W_O = post.centre(W_O) * post.gain
    W_V = attention.W_V.transpose(1, 2).flatten(0, 1).to(frame.dtype)
    return Wires(
        W_O=W_O.to(dtype).contiguous(),
        W_V=block.ln1.centre(W_V * block.ln1.gain).to(dtype).contiguous(),
        pattern=pattern.to(dtype).contiguous(),
        bias=pushed(post, raw, _bias(block, found), bias=True),
    )


def _bias(block: Block, pattern: Float[Tensor, "head query key"]) -> Float[Tensor, "query d_model"]:
    """What heads write of their own: the biases of the norm before them, of their values, of their output."""
    attention = block.attention
    v = torch.einsum("d,gde->ge", block.ln1.bias, attention.W_V) + attention.b_V
    v = v.repeat_interleave(attention.heads_per_group, dim=0).to(pattern.dtype)
    z = torch.einsum("hqk,he->qhe", pattern, v)
    return z.flatten(1) @ attention.W_O.flatten(0, 1).to(z.dtype) + attention.b_O
