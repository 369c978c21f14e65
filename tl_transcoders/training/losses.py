"""What is minimised. Every term is dimensionless: scaling y scales none of them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_transcoders.transcoders import SparseFeatures
from tl_transcoders.transcoders.encode import encode_topk


def total_variance(y: Float[Tensor, "row d_out"]) -> Float[Tensor, ""]:
    """Σ(y − mean y)², the mean taken over rows."""
    return (y - y.mean(0)).square().sum()


def fvu(
    y: Float[Tensor, "row d_out"], y_hat: Float[Tensor, "row d_out"], variance: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Fraction of variance unexplained.

        FVU = Σ(y − ŷ)² / Σ(y − mean y)²
    """
    return (y - y_hat).square().sum() / variance


def l1(
    post: Float[Tensor, "row feature"] | SparseFeatures,
    decoder_norms: Float[Tensor, " feature"],
    variance: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """What the features write, per token and in units of the spread of y.

        L1 = Σ_rf post[r, f] · ‖W_dec[f]‖ / (rows · σ)        σ² = Σ(y − mean y)² / rows

    Source: Anthropic 2024, Circuits Updates April, Update on how we train SAEs.
    """
    if isinstance(post, SparseFeatures):
        rows, written = len(post.offsets), post.values @ decoder_norms[post.indices]
    else:
        rows, written = len(post), post.sum(0) @ decoder_norms
    return written / (rows * variance).sqrt()


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


def norms(W_dec: Float[Tensor, "*target feature d_out"]) -> Float[Tensor, " feature"]:
    """Norm of everything a feature writes, over all its targets."""
    squares = W_dec.square().sum(-1)
    # The offset keeps the gradient finite at a row of zeros, where every transcoder begins.
    return (squares.reshape(-1, squares.shape[-1]).sum(0) + torch.finfo(W_dec.dtype).tiny).sqrt()
