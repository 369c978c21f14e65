"""Exact changes of a layer's weights, by which it reads or writes what differs by a gain, a bias or a mean."""

from dataclasses import replace

from einops import einsum
from torch import Tensor

from tl_transcoders.hosts import NormWeights
from tl_transcoders.splice.layer_weights import LayerWeights

MEAN_TOLERANCE = 1e-5
"""Largest mean over `d_in` of an encoder, relative to its largest weight, that counts as zero."""


def fold_norm(weights: LayerWeights, norm: NormWeights) -> LayerWeights:
    """Read normalised x instead of x · gain + bias.

    W_enc' = diag(gain) W_enc      b_enc' = b_enc + bias @ W_enc
    W_skip' = diag(gain) W_skip    b_dec' = b_dec + bias @ W_skip
    """
    W_enc, b_enc = _after_norm(weights.W_enc, weights.b_enc, norm)
    changed = replace(weights, W_enc=W_enc, b_enc=b_enc)
    if weights.W_skip is None:
        return changed
    W_skip, b_dec = _after_norm(weights.W_skip, weights.b_dec, norm)
    return replace(changed, W_skip=W_skip, b_dec=b_dec)


def centre_reads(weights: LayerWeights) -> LayerWeights:
    """Read x where x − mean(x) was read: W' = W − mean over d_in of W, for W_enc and W_skip."""
    return replace(
        weights,
        W_enc=weights.W_enc - weights.W_enc.mean(0),
        W_skip=None if weights.W_skip is None else weights.W_skip - weights.W_skip.mean(0),
    )


def centre_writes(weights: LayerWeights) -> LayerWeights:
    """Write y − mean(y) where y was written: W' = W − mean over d_out of W, for W_dec, b_dec and W_skip."""
    centred = {
        name: None if (w := getattr(weights, name)) is None else w - w.mean(-1, keepdim=True)
        for name in ("W_dec", "b_dec", "W_skip")
    }
    return replace(weights, **centred)


def ignores_mean(weights: LayerWeights) -> bool:
    """Whether adding a constant to x changes nothing, so that x and x − mean(x) read the same."""
    read = [w for w in (weights.W_enc, weights.W_skip) if w is not None]
    return all(w.mean(0).abs().max() <= MEAN_TOLERANCE * w.abs().max() for w in read)


def _after_norm(W: Tensor, b: Tensor, norm: NormWeights) -> tuple[Tensor, Tensor]:
    gain = norm.gain.float()
    folded = (W.float() * gain[:, None]).to(W.dtype)
    if norm.bias is None:
        return folded, b
    shift = einsum(norm.bias.float(), W.float(), "d_in, d_in out -> out")
    return folded, (b.float() + shift).to(b.dtype)
