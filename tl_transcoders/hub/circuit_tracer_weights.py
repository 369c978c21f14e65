"""The weight files of circuit-tracer's layouts, by their keys."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.circuit_tracer_config import CircuitTracerConfig
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.tensors import Dims, read_tensors, stored_shapes
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    JumpReLU,
    Origin,
    ReLU,
    Transcoder,
    TranscoderConfig,
)

THRESHOLD = "activation_function.threshold"

Shapes = Mapping[str, tuple[int, ...]]


@final
@dataclass(frozen=True, slots=True)
class LayerFiles:
    """The two files of one layer of a cross-layer transcoder."""

    encoder: Path
    decoder: Path


def read_transcoder(
    path: Path, layer: int, cfg: CircuitTracerConfig, request: Request
) -> Transcoder:
    """One `layer_{i}.safetensors`, mapped; `W_skip` is published `[d_out d_in]` and viewed transposed."""
    if path.suffix != ".safetensors":
        raise TranscoderFormatError(
            path.name,
            got=f"a {path.suffix or 'nameless'} file in the config's list",
            expected="layers as .safetensors in circuit-tracer's layout",
            do="Load the repository the list names: tl_transcoders.load(<that repository>).",
        )
    shapes = stored_shapes(path)
    dims = _sizes(path, shapes, W_enc="W_enc", b_enc="b_enc", b_dec="b_dec")
    expected: dict[str, Dims] = {
        "W_enc": _pick(dims, "feature", "d_in"),
        "W_dec": _pick(dims, "feature", "d_out"),
        "b_enc": _pick(dims, "feature"),
        "b_dec": _pick(dims, "d_out"),
    }
    optional = {"W_skip": _pick(dims, "d_out", "d_in"), THRESHOLD: _pick(dims, "feature")}
    expected |= {name: dims for name, dims in optional.items() if name in shapes}
    tensors = read_tensors(path, expected, request)
    threshold = _threshold(path, tensors, THRESHOLD)
    skip = tensors.get("W_skip")
    return Transcoder(
        TranscoderConfig(
            layer=layer,
            d_in=dims["d_in"],
            d_out=dims["d_out"],
            n_features=dims["feature"],
            activation=ReLU() if threshold is None else JumpReLU(),
            skip=skip is not None,
            read=cfg.read,
            write=cfg.write,
        ),
        W_enc=tensors["W_enc"].T,
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        W_skip=None if skip is None else skip.T,
        threshold=threshold,
    ).requires_grad_(False)


def read_cross_layer(
    files: Sequence[LayerFiles],
    cfg: CircuitTracerConfig,
    request: Request,
    *,
    whole: bool,
    origin: Origin,
) -> CrossLayerTranscoder:
    """The first `len(files)` layers, mapped: with `whole` all there are.

    Those before the last also write to layers that were not asked for; these decoders are left on disk, and
    the outputs of the layers asked for are the same.
    """
    n_total = _n_layers(files[0].decoder, len(files), whole=whole)
    shapes = stored_shapes(files[0].encoder)
    dims = _sizes(files[0].encoder, shapes, W_enc="W_enc_0", b_enc="b_enc_0", b_dec="b_dec_0")
    jump = "threshold_0" in shapes
    layers = [_read_encoder(f.encoder, i, dims, jump, request) for i, f in enumerate(files)]
    decoders = [
        _read_decoder(f.decoder, i, {**dims, "target": n_total - i}, request)
        for i, f in enumerate(files)
    ]
    return CrossLayerTranscoder(
        CrossLayerConfig(
            layers=tuple(range(len(files))),
            d_in=dims["d_in"],
            d_out=dims["d_out"],
            n_features=dims["feature"],
            activation=JumpReLU() if jump else ReLU(),
            read=cfg.read,
            write=cfg.write,
        ),
        W_enc=[tensors["W_enc"].T for tensors in layers],
        b_enc=[tensors["b_enc"] for tensors in layers],
        W_dec=[W_dec[: len(files) - i] for i, W_dec in enumerate(decoders)],
        b_dec=[tensors["b_dec"] for tensors in layers],
        threshold=[tensors["threshold"] for tensors in layers] if jump else None,
        origin=origin,
    ).requires_grad_(False)


def _read_encoder(
    path: Path, i: int, dims: Dims, jump: bool, request: Request
) -> dict[str, Tensor]:
    expected: dict[str, Dims] = {
        f"W_enc_{i}": _pick(dims, "feature", "d_in"),
        f"b_enc_{i}": _pick(dims, "feature"),
        f"b_dec_{i}": _pick(dims, "d_out"),
    }
    if jump:
        expected[f"threshold_{i}"] = _pick(dims, "feature")
    tensors = read_tensors(path, expected, request)
    _threshold(path, tensors, f"threshold_{i}")
    return {name.removesuffix(f"_{i}"): tensor for name, tensor in tensors.items()}


def _read_decoder(path: Path, i: int, dims: Dims, request: Request) -> Tensor:
    """`[target feature d_out]`, a view of the published `[feature target d_out]`."""
    name = f"W_dec_{i}"
    expected = {name: _pick(dims, "feature", "target", "d_out")}
    return read_tensors(path, expected, request)[name].transpose(0, 1)


def _n_layers(path: Path, n_files: int, *, whole: bool) -> int:
    """How many layers there are: the first decoder writes to all of them."""
    shape = stored_shapes(path).get("W_dec_0", ())
    n = shape[1] if len(shape) == 3 else 0
    if n < n_files or (whole and n > n_files):
        raise TranscoderFormatError(
            f"{path.name}, W_dec_0",
            got=f"shape {shape} beside {n_files} layers",
            expected="[feature target d_out] with one target for every layer",
            do="Download the missing layers, or name those to load: layers=range(n).",
        )
    return n


def _sizes(path: Path, shapes: Shapes, *, W_enc: str, b_enc: str, b_dec: str) -> dict[str, int]:
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


def _pick(dims: Dims, *names: str) -> Dims:
    return {name: dims[name] for name in names}


def _threshold(path: Path, tensors: Mapping[str, Tensor], name: str) -> Tensor | None:
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
