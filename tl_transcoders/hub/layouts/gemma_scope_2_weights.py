"""Gemma Scope 2's tensors and their canonical form; their sizes stand in no config."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.canonical import Weights
from tl_transcoders.hub.tensors import Dims, stored_shapes
from tl_transcoders.transcoders import CrossLayerConfig, TranscoderConfig


def sizes(path: Path) -> dict[str, int]:
    """`d_in`, `n_features` and `d_out` by the header of a file; raises TranscoderFormatError."""
    stored = stored_shapes(path)
    match stored.get("w_enc"), stored.get("b_enc"), stored.get("b_dec"):
        case (rows, columns), (features,), (d_out,):
            d_in = rows if columns == features else columns
            return {"d_in": d_in, "n_features": features, "d_out": d_out}
        case w_enc, b_enc, b_dec:
            raise TranscoderFormatError(
                path.name,
                got=f"w_enc of shape {w_enc}, b_enc of shape {b_enc}, b_dec of shape {b_dec}",
                expected="w_enc (d_in, feature), b_enc (feature) and b_dec (d_out)",
                do="The file is not of Gemma Scope 2, or damaged: download it again.",
            )


def shapes(cfg: TranscoderConfig | CrossLayerConfig) -> dict[str, Dims]:
    """The tensors of one layer's file."""
    found: dict[str, Dims] = {
        "w_enc": {"d_in": cfg.d_in, "feature": cfg.n_features},
        "b_enc": {"feature": cfg.n_features},
        "w_dec": {"feature": cfg.n_features, "d_out": cfg.d_out},
        "b_dec": {"d_out": cfg.d_out},
        "threshold": {"feature": cfg.n_features},
    }
    if cfg.skip:
        found["affine_skip_connection"] = {"d_in": cfg.d_in, "d_out": cfg.d_out}
    return found


def cross_layer_shapes(cfg: CrossLayerConfig) -> dict[str, Dims]:
    """The tensors of one layer's file of a cross-layer set: its decoders are as many as there are layers."""
    w_dec = {"feature": cfg.n_features, "layer": len(cfg.layers), "d_out": cfg.d_out}
    return {**shapes(cfg), "w_dec": w_dec}


def weights(tensors: Mapping[str, Tensor]) -> Weights:
    """The same tensors under our names; nothing needs folding."""
    return Weights(
        W_enc=tensors["w_enc"],
        b_enc=tensors["b_enc"],
        W_dec=tensors["w_dec"],
        b_dec=tensors["b_dec"],
        W_skip=tensors.get("affine_skip_connection"),
        threshold=tensors["threshold"],
    )
