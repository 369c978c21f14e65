"""What Llama Scope's `hyperparams.json` says, and the folds it asks for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from tl_transcoders.hub.build import transcoder_config
from tl_transcoders.hub.canonical import (
    Weights,
    fold_pre_bias,
    fold_scales,
    threshold_of_decoder_norms,
)
from tl_transcoders.hub.fields import Fields
from tl_transcoders.hub.hook_names import tap
from tl_transcoders.hub.tensors import Dims
from tl_transcoders.transcoders import JumpReLU, TranscoderConfig


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaScopeConfig:
    """One SAE's.

    **Arguments:**

    - `scale_in`, `scale_out`: what x is multiplied by, and what y must be divided by.
    - `threshold`: compared with pre-activations of x as it is.
    - `times_norms`: whether these are multiplied by the norms of the decoder.
    - `pre_bias`: whether the decoder's bias is subtracted from the scaled x.
    """

    transcoder: TranscoderConfig
    scale_in: float
    scale_out: float
    threshold: float
    times_norms: bool
    pre_bias: bool
    bias: bool

    def shapes(self) -> dict[str, Dims]:
        """The tensors of the checkpoint."""
        cfg = self.transcoder
        shapes: dict[str, Dims] = {
            "encoder.weight": {"feature": cfg.n_features, "d_in": cfg.d_in},
            "encoder.bias": {"feature": cfg.n_features},
            "decoder.weight": {"d_out": cfg.d_out, "feature": cfg.n_features},
        }
        return {**shapes, "decoder.bias": {"d_out": cfg.d_out}} if self.bias else shapes


def llama_scope_config(fields: Fields) -> LlamaScopeConfig:
    """The config of `hyperparams.json`; raises TranscoderFormatError where it asks for more than can be folded."""
    _require(fields, "act_fn", ("jumprelu",), "The published ones are; it computes something else.")
    layer, read = tap(fields, "hook_point_in")
    _, write = tap(fields, "hook_point_out")
    if _declared(fields, "use_glu_encoder"):
        raise fields.wrong(
            "use_glu_encoder",
            expected="false",
            do="A gated linear encoder has no equal without one.",
        )
    scale_in, scale_out = _scales(fields)
    bias = _declared(fields, "use_decoder_bias")
    return LlamaScopeConfig(
        transcoder=transcoder_config(
            fields.where,
            layer=layer,
            d_in=fields.integer("d_model"),
            d_out=fields.integer("d_model"),
            n_features=fields.integer("d_sae"),
            activation=JumpReLU(),
            read=read,
            write=write,
        ),
        scale_in=scale_in,
        scale_out=scale_out,
        threshold=_finite(fields, "jump_relu_threshold"),
        times_norms=_declared(fields, "sparsity_include_decoder_norm"),
        pre_bias=bias and _declared(fields, "apply_decoder_bias_to_pre_encoder"),
        bias=bias,
    )


def canonical(config: LlamaScopeConfig, tensors: Mapping[str, Tensor]) -> Weights:
    """The weights for x and y as they are.

        scale_out · y = jumprelu(scale_in · x @ W_enc + b_enc) @ W_dec + b_dec

    with a pre-activation active where, divided by scale_in and times |W_dec · scale_in / scale_out|, it
    exceeds the threshold.
    """
    W_enc, b_enc = tensors["encoder.weight"].T, tensors["encoder.bias"]
    W_dec = tensors["decoder.weight"].T.contiguous()
    b_dec = tensors["decoder.bias"] if config.bias else W_dec.new_zeros(W_dec.shape[1])
    published = Weights(W_enc=W_enc, b_enc=b_enc, W_dec=W_dec, b_dec=b_dec)
    biased = fold_pre_bias(published, b_dec) if config.pre_bias else published
    scaled = fold_scales(biased, scale_in=config.scale_in, scale_out=config.scale_out)
    if config.times_norms:
        threshold = threshold_of_decoder_norms(scaled.W_dec, config.threshold)
    else:
        threshold = torch.full_like(b_enc, config.threshold)
    return replace(scaled, threshold=threshold)


def _scales(fields: Fields) -> tuple[float, float]:
    _require(
        fields,
        "norm_activation",
        ("dataset-wise", "inference"),
        "A scale that depends on x cannot be folded into the weights.",
    )
    if fields.text("norm_activation") == "inference":
        return 1.0, 1.0
    norms = fields.nested("dataset_average_activation_norm")
    root = math.sqrt(max(fields.integer("d_model"), 0))
    scale_in, scale_out = (_positive(norms, name) for name in ("in", "out"))
    return root / scale_in, root / scale_out


def _finite(fields: Fields, name: str) -> float:
    value = fields.number(name)
    if not math.isfinite(value):
        raise fields.wrong(name, expected="a finite number", do="Correct the file.")
    return value


def _positive(norms: Fields, name: str) -> float:
    value = norms.number(name)
    if not 1e-30 < value < 1e30:
        raise norms.wrong(name, expected="a positive number", do="Correct the file.")
    return value


def _declared(fields: Fields, name: str) -> bool:
    if name not in fields.data:
        raise fields.wrong(
            name, expected="true or false", do="Its default has changed; say what it was."
        )
    return fields.flag(name)


def _require(fields: Fields, name: str, permitted: tuple[str, ...], why: str) -> None:
    if fields.text(name) not in permitted:
        raise fields.wrong(name, expected=" or ".join(permitted), do=why)
