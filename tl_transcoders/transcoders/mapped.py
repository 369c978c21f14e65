"""Encoders that are mapped from a file: read block by block, and out of memory again after use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_transcoders.transcoders.pages import give_back, lies_in_file

BLOCK = 8 << 20
"""How many bytes of an encoder in a file are in memory at a time; smaller encoders stay there."""

FEW = 64
"""Up to how many inputs reading a block takes longer than multiplying with it."""


def is_mapped(W_enc: Tensor) -> bool:
    """Whether an encoder is large and lies in a file."""
    whole = isinstance(W_enc, nn.Parameter) and W_enc.T.is_contiguous()
    large = whole and W_enc.nbytes > BLOCK and not torch.compiler.is_compiling()
    return large and lies_in_file(W_enc)


def by_blocks(
    x: Float[Tensor, "*batch d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
) -> Float[Tensor, "*batch feature"]:
    """x @ W_enc + b_enc, with no more than one block of the encoder in memory."""
    rows = W_enc.T
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
