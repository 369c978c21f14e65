"""The choice between the dense and the sparse route, and between an encoder in memory and one in a file."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_transcoders.transcoders import kernels
from tl_transcoders.transcoders.pages import give_back, lies_in_file
from tl_transcoders.transcoders.sparse import SparseFeatures

GATHER_BELOW = 0.08
"""Density under which finding the active features and gathering their rows beats the dense product.

Measured by `python -m benchmarks.density`.
"""

BLOCK = 8 << 20
"""How many bytes of an encoder in a file are in memory at a time; smaller encoders stay there."""

FEW = 64
"""Up to how many inputs reading a block takes longer than multiplying with it."""


def pre_activations(
    x: Float[Tensor, "*batch d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
    *,
    ranked: bool,
) -> Float[Tensor, "*batch feature"]:
    """x @ W_enc + b_enc; an encoder that is mapped from a file leaves memory again, block by block.

    Where TopK ranks them (`ranked`), they are to the bit what `encode_topk` ranks, and computed at once.
    """
    if not ranked and _is_large(W_enc) and lies_in_file(W_enc):
        return _by_blocks(x, W_enc.T, b_enc)
    flat = x.reshape(-1, x.shape[-1])
    return kernels.pre_activations(flat, W_enc, b_enc).view(*x.shape[:-1], W_enc.shape[1])


def _is_large(W_enc: Tensor) -> bool:
    mapped = isinstance(W_enc, nn.Parameter) and W_enc.T.is_contiguous()
    return mapped and W_enc.nbytes > BLOCK and not torch.compiler.is_compiling()


def _by_blocks(
    x: Float[Tensor, "*batch d_in"],
    rows: Float[Tensor, "feature d_in"],
    b_enc: Float[Tensor, " feature"],
) -> Float[Tensor, "*batch feature"]:
    n = max(1, BLOCK // rows[0].nbytes)
    found = []
    with _threads_for(x):
        for block, bias in zip(rows.split(n), b_enc.split(n), strict=True):
            found.append(nn.functional.linear(x, block, bias))
            give_back(block)
        give_back(rows)  # the system may have read ahead, or behind, into blocks that were done
        return torch.cat(found, dim=-1)


@contextmanager
def _threads_for(x: Float[Tensor, "*batch d_in"]) -> Iterator[None]:
    """One thread for few inputs: threads would wait for memory, and at the end of every block for one another."""
    before = torch.get_num_threads()
    if x[..., 0].numel() > FEW or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gather_if_sparse(
    post: Float[Tensor, "*batch feature"],
) -> Float[Tensor, "*batch feature"] | SparseFeatures:
    """`post` as values and indices where few enough are active, else unchanged."""
    active = torch.count_nonzero(post.detach())
    if active < GATHER_BELOW * post.numel():
        return SparseFeatures.from_dense(post)
    return post


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
