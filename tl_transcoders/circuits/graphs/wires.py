"""Attention with its pattern and its norms' scales frozen: a linear map of the residual stream, and its transpose."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs.buffers import Buffers
from tl_transcoders.circuits.graphs.frame import Frame, pushed
from tl_transcoders.hosts import Block


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Wires:
    """The frozen attention of a layer, its norms folded in: x ↦ Σ_h A_h x W_V W_O + bias.

    `pattern` is A / (σ of ln1 at the key · σ of ln1_post at the query). States are `[d_model pos n]`, n of them side by
    side, so that a weight meets all positions in one product. Products are computed in the weights' dtype, and added up
    in the state's.
    """

    W_O: Float[Tensor, "z d_model"]
    """Rows: head, dimension of the head."""
    W_V: Float[Tensor, "v d_model"]
    """Rows: group, dimension of the head."""
    pattern: Float[Tensor, "group head query key"]
    bias: Float[Tensor, "d_model pos"]

    def add_pulled(self, g: Float[Tensor, "d_model pos n"], buffers: Buffers) -> None:
        """Adds to the gradients of the stream after attention what attention passes back to the first positions, in place."""
        length = g.shape[1]
        z = _product(self.W_O, g, buffers.take("z", self.W_O.dtype, len(self.W_O), *g.shape[1:]))
        v = buffers.take("v", self.W_V.dtype, len(self.W_V), *g.shape[1:])
        for of_v, heads, patterns in self._by_group(slice(0, length), z, v):
            for head, (of_z, A) in enumerate(zip(heads, patterns, strict=True)):
                of_v.baddbmm_(A.T.expand(len(of_v), *A.T.shape), of_z, beta=min(head, 1))
        _add_product(g, self.W_V.T, v)

    def add_pushed(self, x: Float[Tensor, "d_model pos n"], first: int, buffers: Buffers) -> None:
        """Adds to the stream what attention makes of it, in place; `first` is its first position."""
        length = x.shape[1]
        v = _product(self.W_V, x, buffers.take("v", self.W_V.dtype, len(self.W_V), *x.shape[1:]))
        z = buffers.take("z", self.W_O.dtype, len(self.W_O), *x.shape[1:])
        for of_v, heads, patterns in self._by_group(slice(first, first + length), z, v):
            for of_z, A in zip(heads, patterns, strict=True):
                torch.bmm(A.expand(len(of_v), *A.shape), of_v, out=of_z)
        _add_product(x, self.W_O.T, z)

    def _by_group(self, at: slice, z: Tensor, v: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of every group its v, and of its heads z and patterns between some positions."""
        pattern = self.pattern[:, :, at, at]
        groups, heads = pattern.shape[:2]
        d_head, *rest = len(v) // groups, *v.shape[1:]
        yield from zip(
            v.view(groups, d_head, *rest),
            z.view(groups, heads, d_head, *rest),
            pattern,
            strict=True,
        )


def _product(matrix: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """matrix @ x at every position."""
    torch.mm(matrix, x.flatten(1).to(matrix.dtype), out=out.view(len(out), -1))
    return out


def _add_product(x: Tensor, matrix: Tensor, y: Tensor) -> None:
    """x += matrix @ y at every position."""
    flat = x.view(len(x), -1)
    if x.dtype == matrix.dtype:
        flat.addmm_(matrix, y.flatten(1))
    else:
        flat += matrix @ y.flatten(1)


def wires(frame: Frame, layer: int, dtype: torch.dtype) -> Wires:
    """The frozen attention of a layer, for products in a dtype."""
    block = frame.block(layer)
    attention, post = block.attention, block.ln1_post
    raw = frame.value("attn_raw", layer)
    found = frame.value("pattern", layer)
    pattern = found.unflatten(0, (attention.n_groups, attention.heads_per_group))
    pattern = pattern / block.ln1.scale(frame.value("resid_pre", layer))[:, 0]
    W_O = attention.W_O.flatten(0, 1).to(frame.dtype)
    if post is not None:
        pattern = pattern / post.scale(raw)
        W_O = post.centre(W_O) * post.gain
    W_V = attention.W_V.transpose(1, 2).flatten(0, 1).to(frame.dtype)
    return Wires(
        W_O=W_O.to(dtype),
        W_V=block.ln1.centre(W_V * block.ln1.gain).to(dtype).contiguous(),
        pattern=pattern.to(dtype).contiguous(),
        bias=pushed(post, raw, _bias(block, found), bias=True).T.contiguous(),
    )


def _bias(block: Block, pattern: Float[Tensor, "head query key"]) -> Float[Tensor, "query d_model"]:
    """What heads write of their own: the biases of the norm before them, of their values, of their output."""
    attention = block.attention
    z = torch.einsum("hqk,he->qhe", pattern, block.value_bias.to(pattern.dtype))
    return z.flatten(1) @ attention.W_O.flatten(0, 1).to(z.dtype) + attention.b_O
