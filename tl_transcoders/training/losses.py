"""What is minimised. Every term is dimensionless: scaling y scales none of them."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tl_transcoders.transcoders import SparseFeatures
from tl_transcoders.transcoders.encode import encode_topk


def total_variance(y: Float[Tensor, "row d_out"]) -> Float[Tensor, ""]:
    """Σ(y − mean y)², the mean taken over rows."""
    centred = (y - y.mean(0)).reshape(-1)
    return centred.dot(centred)


def fvu(
    y: Float[Tensor, "row d_out"], y_hat: Float[Tensor, "row d_out"], variance: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Fraction of variance unexplained.

    FVU = Σ(y − ŷ)² / Σ(y − mean y)²
    """
    return _SquaredError.apply(y, y_hat) / variance


class _SquaredError(Function):
    """Σ(y − ŷ)², with a gradient to ŷ in one operation."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, y_hat: Tensor) -> Tensor:
        error = y_hat - y
        ctx.save_for_backward(error)
        return error.view(-1).dot(error.view(-1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (error,) = ctx.saved_tensors
        return None, error * (2 * grad)


def l1(
    post: Float[Tensor, "row feature"] | SparseFeatures, sizes: Float[Tensor, " feature"]
) -> Float[Tensor, ""]:
    """What the features write, per token.

        L1 = Σ_rf post[r, f] · size[f] / rows        size: see `written`

    Source: Anthropic 2024, Circuits Updates April, Update on how we train SAEs.
    """
    if isinstance(post, SparseFeatures):
        return post.values @ sizes[post.indices] / len(post.offsets)
    return post.mean(0) @ sizes


def written(
    W_dec: Float[Tensor, "target feature d_out"], variances: Float[Tensor, " target"], *, rows: int
) -> Float[Tensor, " feature"]:
    """How much a unit of each feature writes, in units of the spread of what it writes to.

    size[f] = √ Σ_t ‖W_dec[t, f]‖² / σ[t]²        σ[t]² = Σ(y[t] − mean y[t])² / rows
    """
    squares = W_dec.square().sum(-1) * (rows / variances)[:, None]
    return root(squares.sum(0))


def root(squares: Float[Tensor, " feature"]) -> Float[Tensor, " feature"]:
    """√squares, with the gradient 0 at 0, where decoders begin."""
    return (squares + torch.finfo(squares.dtype).tiny).sqrt()


def auxk(
    x: Float[Tensor, "row d_in"],
    residual: Float[Tensor, "row d_out"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
    W_dec: Float[Tensor, "feature d_out"],
    *,
    dead: Bool[Tensor, " feature"],
    variance: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """How badly the dead features alone explain what the living ones leave over.

        AuxK = min(n/k, 1) · Σ(e − ê)² / Σ(y − mean y)²        ê: decode of the k largest of the n dead

    with k = d_in/2 and e = y − ŷ held constant. 0 where nothing is dead.

    Source: Gao et al. 2024, Scaling and evaluating sparse autoencoders, appendix A.2.
    """
    ids = dead.nonzero().squeeze(1)
    if not len(ids):
        return variance.new_zeros(())
    k = max(1, x.shape[1] // 2)
    features, _ = encode_topk(x, W_enc.T[ids].T, b_enc[ids], min(k, len(ids)))
    explained = features.matmul(W_dec[ids])
    return min(len(ids) / k, 1.0) * (residual.detach() - explained).square().sum() / variance
