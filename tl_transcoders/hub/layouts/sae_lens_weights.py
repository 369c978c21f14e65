"""SAELens' tensors, by architecture, and their canonical form."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.canonical import (
    Weights,
    fold_decoder_norms,
    fold_input_scale,
    fold_pre_bias,
    gated_as_jumprelu,
)
from tl_transcoders.hub.layouts.sae_lens_config import SaeLensConfig
from tl_transcoders.hub.tensors import Dims

OUTPUT_BIAS = "b_dec_out"
OLD_SCALE = "scaling_factor"


def shapes(config: SaeLensConfig) -> dict[str, Dims]:
    """The tensors that every set of this config has."""
    cfg = config.transcoder
    feature = {"feature": cfg.n_features}
    expected: dict[str, Dims] = {
        "W_enc": {"d_in": cfg.d_in, "feature": cfg.n_features},
        "W_dec": {"feature": cfg.n_features, "d_out": cfg.d_out},
        "b_dec": {"d_out": cfg.d_out},
    }
    if config.architecture == "gated":
        return {**expected, "r_mag": feature, "b_mag": feature, "b_gate": feature}
    expected["b_enc"] = feature
    if "jumprelu" in config.architecture:
        expected["threshold"] = feature
    if cfg.skip:
        expected["W_skip"] = {"d_out": cfg.d_out, "d_in": cfg.d_in}
    return expected


def optional_shapes(config: SaeLensConfig) -> dict[str, Dims]:
    """The tensors that some sets of this config have besides."""
    cfg = config.transcoder
    old: dict[str, Dims] = {OLD_SCALE: {"feature": cfg.n_features}}
    return {**old, OUTPUT_BIAS: {"d_out": cfg.d_out}} if config.b_dec_out else old


def canonical(
    config: SaeLensConfig, tensors: Mapping[str, Tensor], *, scale: float | None = None
) -> Weights:
    """The weights with what `config` says folded in.

    **Arguments:** `scale`, what the SAE's input is multiplied with, where `config.input_scale`.
    """
    _refuse_old_scale(tensors)
    weights = _weights(config, tensors)
    if config.pre_bias:
        weights = fold_pre_bias(weights, tensors["b_dec"])
    if scale is not None:
        weights = fold_input_scale(weights, scale)
    return fold_decoder_norms(weights) if config.decoder_norms else weights


def _weights(config: SaeLensConfig, tensors: Mapping[str, Tensor]) -> Weights:
    b_dec = tensors.get(OUTPUT_BIAS, tensors["b_dec"])
    if config.architecture == "gated":
        return gated_as_jumprelu(
            tensors["W_enc"],
            tensors["W_dec"],
            b_dec,
            r_mag=tensors["r_mag"],
            b_mag=tensors["b_mag"],
            b_gate=tensors["b_gate"],
        )
    return Weights(
        W_enc=tensors["W_enc"],
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=b_dec,
        W_skip=tensors["W_skip"].T if "W_skip" in tensors else None,
        threshold=tensors.get("threshold"),
    )


def _refuse_old_scale(tensors: Mapping[str, Tensor]) -> None:
    scale = tensors.get(OLD_SCALE)
    if scale is not None and not torch.allclose(scale, torch.ones_like(scale)):
        raise TranscoderFormatError(
            OLD_SCALE,
            got="values other than 1",
            expected="ones, or no such tensor",
            do="Fine-tuned scales of old SAELens versions are not supported: multiply them into W_dec.",
        )
