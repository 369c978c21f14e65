"""Encode and decode of the TopK kinds as one operation, for a backward pass of few, sparse parts."""

from dataclasses import dataclass
from typing import Any, assert_never, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tl_transcoders.training.batch_topk import select_of_batch
from tl_transcoders.transcoders import BatchTopK, SparseFeatures, TopK
from tl_transcoders.transcoders.kernels import (
    by_feature,
    gather_rows,
    largest_pre_activations,
    row_dots,
)


@final
@dataclass(frozen=True, slots=True)
class Selected:
    """The features that stay, without gradient, the row of each, and for BatchTopK the smallest of them."""

    features: SparseFeatures
    rows: Int[Tensor, " active"]
    boundary: Float[Tensor, ""] | None


@torch.no_grad()
def select(
    activation: TopK | BatchTopK,
    x: Float[Tensor, "row d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
) -> Selected:
    """The features of a batch."""
    match activation:
        case TopK(k):
            values, indices = largest_pre_activations(x, W_enc, b_enc, k)
            features = SparseFeatures.from_rows(values.relu_(), indices, (len(x), len(b_enc)))
            rows = torch.arange(len(x), device=x.device).repeat_interleave(k)
            return Selected(features, rows, None)
        case BatchTopK(k):
            return Selected(*select_of_batch(x, W_enc, b_enc, k))
        case _:
            assert_never(activation)


def reconstruct(
    selected: Selected,
    x: Float[Tensor, "row d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
    W_dec: Float[Tensor, "feature d_out"],
    b_dec: Float[Tensor, " d_out"],
) -> Float[Tensor, "row d_out"]:
    """ŷ[r] = Σ_e v_e · W_dec[f_e] + b_dec over the selected entries of row r, with v_e = x[r] · W_enc[f_e] + b_enc[f_e].

    The same values and gradients as `encode_topk` and `SparseFeatures.matmul`; the entries are brought into
    the order of their features once, for the gradients of both weights.
    """
    f = selected.features
    return _Reconstruct.apply(
        x, W_enc, b_enc, W_dec, b_dec, f.values, f.indices, f.offsets, selected.rows
    )


class _Reconstruct(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        values: Tensor,
        indices: Tensor,
        offsets: Tensor,
        rows: Tensor,
    ) -> Tensor:
        ctx.n_features = len(b_enc)
        ctx.save_for_backward(x, W_dec, values, indices, offsets, rows)
        return gather_rows(values, indices, offsets, W_dec).add_(b_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, W_dec, values, indices, offsets, rows = ctx.saved_tensors
        order, starts = by_feature(indices, ctx.n_features)
        rows = rows[order]
        to_values = row_dots(grad, indices, offsets, W_dec).mul_(values > 0)
        to_W_dec = gather_rows(values[order], rows, starts, grad)
        to_W_enc = gather_rows(to_values[order], rows, starts, x).T
        to_b_enc = to_values.new_zeros(ctx.n_features).index_add_(0, indices, to_values)
        return None, to_W_enc, to_b_enc, to_W_dec, grad.sum(0), None, None, None, None
