"""From a transcoder in training to one that is done."""

import torch
from torch import Tensor, nn

from tl_transcoders.transcoders import Transcoder


def finish(transcoder: Transcoder, *, unit_norm_decoder: bool) -> None:
    """Freeze the weights, after moving the norms of the decoder rows into the encoder if asked to.

        W_dec ← W_dec/n,  W_enc ← W_enc·n,  b_enc ← b_enc·n,  threshold ← threshold·n        n = ‖W_dec[f]‖

    Exact where features do not compete for k places; a row of zeros stays as it is.
    """
    if unit_norm_decoder:
        with torch.no_grad():
            scale = _scale(transcoder.W_dec)
            transcoder.W_dec.div_(scale[:, None])
            for weight in (transcoder.W_enc, transcoder.b_enc, transcoder.threshold):
                if weight is not None:
                    weight.mul_(scale)
    freeze(transcoder)


def freeze(module: nn.Module) -> None:
    """Ask for no gradient any more, and keep none."""
    module.requires_grad_(False)
    module.zero_grad(set_to_none=True)


def _scale(W_dec: Tensor) -> Tensor:
    found = W_dec.norm(dim=-1)
    return torch.where(found == 0, 1.0, found)
