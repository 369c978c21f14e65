"""Sparsify's tensors and their canonical form."""

from collections.abc import Mapping

from torch import Tensor

from tl_transcoders.hub.canonical import Weights, fold_pre_bias
from tl_transcoders.hub.layouts.sparsify_config import SparsifyConfig
from tl_transcoders.hub.tensors import Dims


def shapes(config: SparsifyConfig) -> dict[str, Dims]:
    """The tensors of one hookpoint."""
    cfg = config.transcoder
    expected: dict[str, Dims] = {
        "encoder.weight": {"feature": cfg.n_features, "d_in": cfg.d_in},
        "encoder.bias": {"feature": cfg.n_features},
        "W_dec": {"feature": cfg.n_features, "d_out": cfg.d_out},
        "b_dec": {"d_out": cfg.d_out},
    }
    return {**expected, "W_skip": {"d_out": cfg.d_out, "d_in": cfg.d_in}} if cfg.skip else expected


def canonical(config: SparsifyConfig, tensors: Mapping[str, Tensor]) -> Weights:
    """The weights acting on the right, with the pre-bias folded in."""
    weights = Weights(
        W_enc=tensors["encoder.weight"].T,
        b_enc=tensors["encoder.bias"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        W_skip=tensors["W_skip"].T if config.transcoder.skip else None,
    )
    return fold_pre_bias(weights, tensors["b_dec"]) if config.pre_bias else weights
