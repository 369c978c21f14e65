"""BatchTopK in training: the largest pre-activations of the whole batch, with a sparse backward pass."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tl_transcoders.transcoders import SparseFeatures
from tl_transcoders.transcoders.kernels import gather_rows, segment_sum

GROUP = 16


@torch.no_grad()
def select_of_batch(
    x: Float[Tensor, "row d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
    k: int,
) -> tuple[SparseFeatures, Int[Tensor, " active"], Float[Tensor, ""]]:
    """The k · rows largest positive of x @ W_enc + b_enc, the row of each, and the smallest of them; no gradients.

    Rows may keep more or fewer than k. Equal values at the boundary all stay.

    Source: Bussmann et al. 2024, BatchTopK Sparse Autoencoders.
    """
    pre = torch.addmm(b_enc, x, W_enc)
    least = nth_largest(pre, k * len(x)).clamp(min=torch.finfo(pre.dtype).tiny)
    rows, indices = (pre >= least).nonzero(as_tuple=True)
    values = pre[rows, indices]
    per_row = torch.bincount(rows, minlength=len(x))
    features = SparseFeatures(values, indices, per_row.cumsum(0) - per_row, tuple(pre.shape))
    return features, rows, values.min() if len(values) else least


def encode_batch_topk(
    x: Float[Tensor, "row d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
    k: int,
) -> tuple[SparseFeatures, Float[Tensor, ""]]:
    """The same features with sparse gradients, and the smallest of them."""
    found, rows, boundary = select_of_batch(x, W_enc, b_enc, k)
    values = _Selected.apply(x, W_enc, b_enc, found.values, found.indices, found.offsets, rows)
    return SparseFeatures(values, found.indices, found.offsets, found.shape), boundary


def nth_largest(values: Float[Tensor, "row feature"], n: int) -> Float[Tensor, ""]:
    """The n-th largest entry.

    Of groups of entries, the n-th largest maximum is at most the n-th largest entry: only entries from there
    on, a little more than n, are sorted.
    """
    flat = values.reshape(-1)
    whole = len(flat) // GROUP * GROUP
    if n <= whole // GROUP:
        # Groups of entries far apart: the maximum over the first dimension is a vectorised one.
        maxima = flat[:whole].view(GROUP, -1).amax(0)
        flat = flat[flat >= maxima.topk(n, sorted=False).values.min()]
    return flat.topk(min(n, len(flat)), sorted=False).values.min()


class _Selected(Function):
    """Pre-activations at chosen entries, already computed; their gradients touch these entries only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        values: Tensor,
        indices: Tensor,
        offsets: Tensor,
        rows: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, W_enc, indices, offsets, rows)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, W_enc, indices, offsets, rows = ctx.saved_tensors
        to_x = to_W = to_b = None
        if ctx.needs_input_grad[0]:
            to_x = gather_rows(grad, indices, offsets, W_enc.T)
        if ctx.needs_input_grad[1]:
            to_W = segment_sum(grad, indices, rows, x.contiguous(), W_enc.shape[1]).T
        if ctx.needs_input_grad[2]:
            to_b = grad.new_zeros(W_enc.shape[1]).index_add_(0, indices, grad)
        return to_x, to_W, to_b, None, None, None, None
