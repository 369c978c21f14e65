"""Where training starts, and what is set by hand on the way."""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.transcoders import Transcoder, TranscoderConfig

THRESHOLD_MOMENTUM = 0.99


def initial_transcoder(cfg: TranscoderConfig, *, seed: int) -> Transcoder:
    """A random encoder; the decoder is its transpose for an SAE and zero for a transcoder, as in sparsify."""
    transcoder = Transcoder.init(cfg, seed=seed)
    if not cfg.is_sae:
        with torch.no_grad():
            transcoder.W_dec.zero_()
    return transcoder


@torch.no_grad()
def centre(
    x: Float[Tensor, "row d_in"],
    y: Float[Tensor, "row d_out"],
    *,
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
    b_dec: Float[Tensor, " d_out"],
) -> None:
    """Set b_dec to the mean of y, and b_enc so that the pre-activations have mean zero."""
    b_dec.copy_(y.mean(0))
    b_enc.copy_(-x.mean(0) @ W_enc)


@torch.no_grad()
def settle(
    threshold: Float[Tensor, " feature"] | None,
    boundary: Float[Tensor, ""] | None,
    *,
    first: bool,
) -> None:
    """After a step: keep JumpReLU's threshold from falling below 0, and move BatchTopK's towards the batch's boundary.

    BatchTopK's is the running mean of the smallest activation that stayed, begun at the first batch's own.
    """
    if threshold is None:
        return
    if boundary is None:
        threshold.clamp_(min=0)
    else:
        threshold.lerp_(boundary, 1.0 if first else 1 - THRESHOLD_MOMENTUM)
