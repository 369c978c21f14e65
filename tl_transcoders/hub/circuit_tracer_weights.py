"""The weight files of circuit-tracer's sets, and what they share with those of cross-layer transcoders."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.build import build, transcoder_config
from tl_transcoders.hub.circuit_tracer_config import CircuitTracerConfig
from tl_transcoders.hub.layouts import gemma_scope_2_weights as gemma_scope_2
from tl_transcoders.hub.npz import read_npz
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.tensors import Dims, Stored, checked, read_tensors, stored_shapes
from tl_transcoders.transcoders import (
    JumpReLU,
    ReLU,
    Transcoder,
    TranscoderConfig,
)

THRESHOLD = "activation_function.threshold"
GEMMA_SCOPE_2 = "params.safetensors"
"""What every file of Gemma Scope 2 is called."""


def read_transcoder(
    path: Path, layer: int, cfg: CircuitTracerConfig, request: Request
) -> Transcoder:
    """One `layer_{i}.safetensors`, mapped; `W_skip` is published `[d_out d_in]` and viewed transposed."""
    if path.suffix == ".npz":
        return _read_gemma_scope(path, layer, cfg, request)
    if path.name == GEMMA_SCOPE_2:
        return _read_gemma_scope_2(path, layer, cfg, request)
    tensors = read_tensors(path, partial(_expected, path), request)
    threshold = checked_threshold(path, tensors, THRESHOLD)
    skip = tensors.get("W_skip")
    return _transcoder(
        layer,
        cfg,
        W_enc=tensors["W_enc"].T,
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        W_skip=None if skip is None else skip.T,
        threshold=threshold,
    )


def _expected(path: Path, shapes: Stored) -> dict[str, Dims]:
    dims = sizes(path, shapes, W_enc="W_enc", b_enc="b_enc", b_dec="b_dec")
    always: dict[str, Dims] = {
        "W_enc": pick(dims, "feature", "d_in"),
        "W_dec": pick(dims, "feature", "d_out"),
        "b_enc": pick(dims, "feature"),
        "b_dec": pick(dims, "d_out"),
    }
    optional = {"W_skip": pick(dims, "d_out", "d_in"), THRESHOLD: pick(dims, "feature")}
    return always | {name: dims for name, dims in optional.items() if name in shapes}


def _read_gemma_scope(
    path: Path, layer: int, cfg: CircuitTracerConfig, request: Request
) -> Transcoder:
    """A `params.npz` of Gemma Scope, which lists of mntss/ and mwhanna/gemma-scope-transcoders name."""
    stored = read_npz(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    dims = sizes(path, shapes, W_enc="W_enc", b_enc="b_enc", b_dec="b_dec")
    expected: dict[str, Dims] = {
        "W_enc": pick(dims, "d_in", "feature"),
        "W_dec": pick(dims, "feature", "d_out"),
        "b_enc": pick(dims, "feature"),
        "b_dec": pick(dims, "d_out"),
        "threshold": pick(dims, "feature"),
    }
    tensors = checked(path.name, stored, expected, request)
    checked_threshold(path, tensors, "threshold")
    return _transcoder(layer, cfg, **tensors)


def _read_gemma_scope_2(
    path: Path, layer: int, cfg: CircuitTracerConfig, request: Request
) -> Transcoder:
    """A `params.safetensors` of Gemma Scope 2, which a list may name."""
    ours = transcoder_config(
        path.name,
        layer=layer,
        **gemma_scope_2.sizes(path),
        activation=JumpReLU(),
        skip="affine_skip_connection" in stored_shapes(path),
        read=cfg.read,
        write=cfg.write,
    )
    tensors = read_tensors(path, gemma_scope_2.shapes(ours), request)
    checked_threshold(path, tensors, "threshold")
    return build(ours, gemma_scope_2.weights(tensors))


def _transcoder(layer: int, cfg: CircuitTracerConfig, **weights: Any) -> Transcoder:
    d_in, n_features = weights["W_enc"].shape
    threshold, skip = weights.get("threshold"), weights.get("W_skip")
    return Transcoder(
        TranscoderConfig(
            layer=layer,
            d_in=d_in,
            d_out=len(weights["b_dec"]),
            n_features=n_features,
            activation=ReLU() if threshold is None else JumpReLU(),
            skip=skip is not None,
            read=cfg.read,
            write=cfg.write,
        ),
        **weights,
    ).requires_grad_(False)


def sizes(path: Path, shapes: Stored, *, W_enc: str, b_enc: str, b_dec: str) -> dict[str, int]:
    """Widths by the biases, so that a transposed matrix is seen to be one."""
    n_features, d_out = (
        shapes[name][0] if name in shapes and len(shapes[name]) == 1 else 0
        for name in (b_enc, b_dec)
    )
    d_in = math.prod(shapes.get(W_enc, (0,))) // max(1, n_features)
    if not (n_features and d_out and d_in):
        raise TranscoderFormatError(
            path.name,
            got=f"{W_enc}, {b_enc} and {b_dec} of shapes "
            f"{', '.join(str(shapes.get(name)) for name in (W_enc, b_enc, b_dec))}",
            expected="(feature, d_in), (feature,) and (d_out,), none of them empty",
            do="Make the config and the weights agree, or download the set again.",
        )
    return {"feature": n_features, "d_in": d_in, "d_out": d_out}


def pick(dims: Dims, *names: str) -> Dims:
    """Some of the dimensions, in this order."""
    return {name: dims[name] for name in names}


def checked_threshold(path: Path, tensors: Mapping[str, Tensor], name: str) -> Tensor | None:
    """The threshold, where there is one: pre · (pre > threshold) is post only where features cannot be negative."""
    threshold = tensors.get(name)
    if threshold is not None and not bool((threshold >= 0).all()):
        raise TranscoderFormatError(
            f"{path.name}, {name}",
            got=f"a threshold of {threshold.min().item()}",
            expected="thresholds of 0 or more",
            do="Its features could be negative, which no activation here allows: use another set.",
        )
    return threshold
