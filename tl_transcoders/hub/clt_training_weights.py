"""The weights of a clt-training run, folded into one cross-layer transcoder.

    x̂[i]   = x[i] · √d / in_norm[i]
    a[i]   = TopK(x̂[i] @ W_enc[i] + b_enc[i])
    y[j]   = (Σ_{i ≤ j} (a[i] + post_enc[i, j] where a[i] > 0) · scale[i, j] @ W[i, j] + b[j] + x̂[j] @ W_skip[j]) · out_norm[j] / √d

with `W[i, j]` and `b[j]` by the mode (`LayerConfig.mode`): under "none" b is the sum of all sources' own.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.clt_training_config import LayerConfig
from tl_transcoders.hub.tensors import Dims
from tl_transcoders.transcoders import CrossLayerConfig, CrossLayerTranscoder, Origin, TopK

MAX_UNFOLDED_BYTES = 4_000_000_000

Tensors = Mapping[str, Tensor]


def expected_shapes(cfg: LayerConfig, found: Mapping[str, tuple[int, ...]]) -> dict[str, Dims]:
    """The tensors of one file; of those the peer imputes, and of its second names, the ones that are there."""
    wide, d = {"feature": cfg.n_features}, {"d": cfg.d_in}
    square: Dims = {"d_out": cfg.d_in, "d_in": cfg.d_in}
    own = "W_decs.0" if cfg.mode == "none" else "W_dec"
    shapes: dict[str, Dims] = {"encoder.weight": {**wide, **d}, "encoder.bias": wide}
    if cfg.mode == "none":
        for t in range(cfg.n_targets):
            shapes |= {f"W_decs.{t}": {**wide, **d}, f"b_decs.{t}": d}
            shapes |= {f"W_skips.{t}": square} if cfg.skip else {}
    else:
        sources = cfg.n_sources if cfg.mode == "per-layer" else 1
        shapes |= {"W_dec": {"source_feature": sources * cfg.n_features, **d}, "b_dec": d}
        shapes |= {"W_skip": square} if cfg.skip else {}
    if cfg.scaled:
        shapes |= {f"post_enc_scales.{t}": wide for t in range(cfg.n_targets)}
    if cfg.normalised:
        shapes |= {"in_norm": {"one": 1}, "out_norm": {"one": 1}}
    optional = {f"post_encs.{t}": wide for t in range(cfg.n_targets)}
    optional |= {"W_dec": {**wide, **d}, "b_dec": d, "W_skip": square} if own != "W_dec" else {}
    return shapes | {name: dims for name, dims in optional.items() if name in found}


def fold(
    cfgs: Sequence[LayerConfig], layers: Sequence[Tensors], origin: Origin
) -> CrossLayerTranscoder:
    """One cross-layer transcoder that reads what the MLPs receive and writes what they return."""
    n, first = len(cfgs), cfgs[0]
    _refuse_large(first, layers)
    reads = [_scale(first, tensors, "in_norm", inverse=True) for tensors in layers]
    writes = [_scale(first, tensors, "out_norm", inverse=False) for tensors in layers]
    W_dec = [
        torch.stack([_decoder(first, layers, i, j) * writes[j] for j in range(i, n)])
        for i in range(n)
    ]
    skips = None
    if first.skip:
        skips = [_skip(first, tensors) * reads[j] * writes[j] for j, tensors in enumerate(layers)]
    return CrossLayerTranscoder(
        CrossLayerConfig(
            layers=tuple(range(n)),
            d_in=first.d_in,
            d_out=first.d_in,
            n_features=first.n_features,
            activation=TopK(first.k),
            skip=first.skip,
            read="mlp_in",
            write="mlp_out_raw",
        ),
        W_enc=[(t["encoder.weight"] * reads[i]).T for i, t in enumerate(layers)],
        b_enc=[tensors["encoder.bias"] for tensors in layers],
        W_dec=W_dec,
        b_dec=[_bias(first, layers, j) * writes[j] for j in range(n)],
        W_skip=skips,
        origin=origin,
    ).requires_grad_(False)


def _decoder(cfg: LayerConfig, layers: Sequence[Tensors], i: int, j: int) -> Tensor:
    """scale[i, j] · W[i, j]; raises TranscoderFormatError where post_enc[i, j] is not zero."""
    post_enc = layers[i].get(f"post_encs.{j - i}")
    if post_enc is not None and bool(post_enc.any()):
        raise TranscoderFormatError(
            f"layer {i}, post_encs.{j - i}",
            got="values that are not zero",
            expected="zeros",
            do="A bias of active features after the encoder has no equal here: the set cannot be loaded.",
        )
    match cfg.mode:
        case "none":
            W = layers[i][f"W_decs.{j - i}"]
        case "concat":
            W = layers[j]["W_dec"]
        case "per-layer":
            W = layers[j]["W_dec"].unflatten(0, (-1, cfg.n_features))[i]
    return W * layers[i][f"post_enc_scales.{j - i}"][:, None] if cfg.scaled else W


def _bias(cfg: LayerConfig, layers: Sequence[Tensors], j: int) -> Tensor:
    if cfg.mode != "none":
        return layers[j]["b_dec"]
    return torch.stack([layers[i][f"b_decs.{j - i}"] for i in range(j + 1)]).sum(0)


def _skip(cfg: LayerConfig, tensors: Tensors) -> Tensor:
    """The skip of a layer to itself, `[d_in d_out]`; raises TranscoderFormatError for one to a later layer."""
    for name in tensors:
        later = name.startswith("W_skips.") and name != "W_skips.0"
        if later and bool(tensors[name].any()):
            raise TranscoderFormatError(
                name,
                got="values that are not zero",
                expected="zeros",
                do="A skip to a later layer has no equal here: the set cannot be loaded.",
            )
    return tensors["W_skips.0" if cfg.mode == "none" else "W_skip"].T


def _scale(cfg: LayerConfig, tensors: Tensors, name: str, *, inverse: bool) -> float:
    """√d / in_norm, or out_norm / √d."""
    if not cfg.normalised:
        return 1.0
    norm = tensors[name].item() / math.sqrt(cfg.d_in)
    if not (math.isfinite(norm) and norm > 0):
        raise TranscoderFormatError(
            name, got=f"{norm}", expected="a positive number", do="Download the set again."
        )
    return 1 / norm if inverse else norm


def _refuse_large(cfg: LayerConfig, layers: Sequence[Tensors]) -> None:
    pairs = len(layers) * (len(layers) + 1) // 2
    size = pairs * cfg.n_features * cfg.d_in * layers[0]["encoder.weight"].element_size()
    if size > MAX_UNFOLDED_BYTES:
        raise TranscoderFormatError(
            "W_dec",
            got=f"decoders that take {size / 1e9:.0f} GB for every pair of layers",
            expected=f"at most {MAX_UNFOLDED_BYTES / 1e9:.0f} GB",
            do="They are shared or scaled on disk and have to be copied: this set is too large for that.",
        )
