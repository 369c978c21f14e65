"""A transcoder from what a published config and its canonical weights say."""

from typing import Any

from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub.canonical import Weights
from tl_transcoders.transcoders import CrossLayerConfig, Transcoder, TranscoderConfig


def transcoder_config(where: str, **fields: Any) -> TranscoderConfig:
    """`TranscoderConfig(**fields)`; values it refuses raise TranscoderFormatError, because a file says them."""
    try:
        return TranscoderConfig(**fields)
    except ConfigError as error:
        raise _of_file(where, error) from error


def cross_layer_config(where: str, **fields: Any) -> CrossLayerConfig:
    """`CrossLayerConfig(**fields)`; values it refuses raise TranscoderFormatError."""
    try:
        return CrossLayerConfig(**fields)
    except ConfigError as error:
        raise _of_file(where, error) from error


def build(cfg: TranscoderConfig, weights: Weights) -> Transcoder:
    """The transcoder, its parameters with `requires_grad=False`."""
    return Transcoder(
        cfg,
        W_enc=weights.W_enc,
        b_enc=weights.b_enc,
        W_dec=weights.W_dec,
        b_dec=weights.b_dec,
        W_skip=weights.W_skip,
        threshold=weights.threshold,
    ).requires_grad_(False)


def _of_file(where: str, error: ConfigError) -> TranscoderFormatError:
    return TranscoderFormatError(
        f"{where}, {error.where}", got=error.got, expected=error.expected, do=error.do
    )
