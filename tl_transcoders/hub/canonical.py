"""Published quirks folded into the weights, exactly: the core has no flags for them."""

from dataclasses import dataclass, replace
from typing import final

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The tensors of one transcoder, acting on the right: y = act(x @ W_enc + b_enc) @ W_dec + b_dec (+ x @ W_skip)."""

    W_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature d_out"]
    b_dec: Float[Tensor, " d_out"]
    W_skip: Float[Tensor, "d_in d_out"] | None = None
    threshold: Float[Tensor, " feature"] | None = None


def fold_pre_bias(weights: Weights, bias: Float[Tensor, " d_in"]) -> Weights:
    """Encode x where the published encoder takes x − bias.

    b_enc' = b_enc − bias @ W_enc
    """
    shift = einsum(bias, weights.W_enc, "d_in, d_in feature -> feature")
    return replace(weights, b_enc=weights.b_enc - shift)


def fold_input_scale(weights: Weights, scale: float) -> Weights:
    """Read and write x where the published SAE reads and writes scale · x.

    W_enc' = scale · W_enc,   W_dec' = W_dec / scale,   b_dec' = b_dec / scale
    """
    return replace(
        weights,
        W_enc=weights.W_enc * scale,
        W_dec=weights.W_dec / scale,
        b_dec=weights.b_dec / scale,
    )


def fold_decoder_norms(weights: Weights) -> Weights:
    """Compare pre · |W_dec| where the published activation does, and decode with unit rows.

        W_enc' = W_enc · |W_dec|,   b_enc' = b_enc · |W_dec|,   W_dec' = W_dec / |W_dec|

    A feature whose decoder is zero stays zero.
    """
    norms = weights.W_dec.norm(dim=-1)
    return replace(
        weights,
        W_enc=weights.W_enc * norms,
        b_enc=weights.b_enc * norms,
        W_dec=weights.W_dec / norms.masked_fill(norms == 0, 1).unsqueeze(-1),
    )


def gated_as_jumprelu(
    W_enc: Float[Tensor, "d_in feature"],
    W_dec: Float[Tensor, "feature d_out"],
    b_dec: Float[Tensor, " d_out"],
    *,
    r_mag: Float[Tensor, " feature"],
    b_mag: Float[Tensor, " feature"],
    b_gate: Float[Tensor, " feature"],
) -> Weights:
    """A gated encoder as a JumpReLU, which it equals because gate and magnitude share their directions.

        mag  = x @ (W_enc · exp(r_mag)) + b_mag
        gate = x @ W_enc + b_gate > 0   ⇔   mag > b_mag − exp(r_mag) · b_gate

    Source: Rajamanoharan et al. 2024, Improving Dictionary Learning with Gated Sparse Autoencoders, appendix.
    """
    scale = r_mag.exp()
    return Weights(
        W_enc=W_enc * scale,
        b_enc=b_mag,
        W_dec=W_dec,
        b_dec=b_dec,
        threshold=(b_mag - scale * b_gate).relu(),
    )


def fold_scales(weights: Weights, *, scale_in: float, scale_out: float) -> Weights:
    """Read x and write y where the published weights read scale_in · x and write scale_out · y.

        act(scale_in · x @ W_enc + b_enc) = scale_in · act(x @ W_enc + b_enc / scale_in)
        b_enc' = b_enc / scale_in,   W_dec' = W_dec · scale_in / scale_out,   b_dec' = b_dec / scale_out

    For ReLU and TopK, and a JumpReLU whose threshold is divided by scale_in.
    """
    ratio = scale_in / scale_out
    return replace(
        weights,
        b_enc=weights.b_enc / scale_in,
        W_dec=weights.W_dec if ratio == 1 else weights.W_dec * ratio,
        b_dec=weights.b_dec / scale_out,
        threshold=None if weights.threshold is None else weights.threshold / scale_in,
    )


def threshold_of_decoder_norms(
    W_dec: Float[Tensor, "feature d_out"], threshold: float
) -> Float[Tensor, " feature"]:
    """One threshold for each feature, of one that pre · |W_dec| is compared with.

        pre · |W_dec| > threshold   ⇔   pre > threshold / |W_dec|

    A feature whose decoder is zero is never active at a threshold of zero or more.
    """
    precise = torch.promote_types(W_dec.dtype, torch.float32)
    norms = torch.linalg.vector_norm(W_dec, dim=-1, dtype=precise)
    return (threshold / norms).nan_to_num(nan=torch.inf, posinf=torch.inf).to(W_dec.dtype)
