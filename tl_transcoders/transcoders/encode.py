"""The choice between the dense and the sparse route."""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.transcoders import kernels
from tl_transcoders.transcoders.mapped import by_blocks, is_mapped
from tl_transcoders.transcoders.sparse import SparseFeatures

GATHER_BELOW = 0.08
"""Density under which finding the active features and gathering their rows beats the dense product.

Measured by `python -m benchmarks.density`.
"""


def gather_if_sparse(
    post: Float[Tensor, "*batch feature"],
) -> Float[Tensor, "*batch feature"] | SparseFeatures:
    """`post` as values and indices where few enough are active, else unchanged."""
    active = torch.count_nonzero(post.detach())
    if active < GATHER_BELOW * post.numel():
        return SparseFeatures.from_dense(post)
    return post


def pre_activations(
    x: Float[Tensor, "*batch d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
    *,
    ranked: bool,
) -> Float[Tensor, "*batch feature"]:
    """x @ W_enc + b_enc: with `ranked` to the bit what `encode_topk` ranks, else by blocks where it is mapped."""
    if not ranked and is_mapped(W_enc):
        return by_blocks(x, W_enc, b_enc)
    flat = x.reshape(-1, x.shape[-1])
    return kernels.pre_activations(flat, W_enc, b_enc).view(*x.shape[:-1], W_enc.shape[1])


def encode_topk(
    x: Float[Tensor, "*batch d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
    k: int,
    *,
    want_dense: bool = False,
) -> tuple[SparseFeatures, Float[Tensor, "*dense feature"]]:
    """TopK features of x as values and indices and, if asked for, dense (else an empty tensor)."""
    flat = x.reshape(-1, x.shape[-1])
    shape = (*x.shape[:-1], W_enc.shape[1])
    values, indices, dense = kernels.TopKEncode.apply(flat, W_enc, b_enc, k, want_dense)
    sparse = SparseFeatures.from_rows(values, indices, shape)
    return sparse, dense.view(shape) if want_dense else dense.view(0, W_enc.shape[1])
