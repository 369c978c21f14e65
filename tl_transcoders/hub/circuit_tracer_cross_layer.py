"""The weight files of circuit-tracer's cross-layer transcoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.circuit_tracer_config import CircuitTracerConfig
from tl_transcoders.hub.circuit_tracer_weights import checked_threshold, pick, sizes
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.tensors import Dims, read_tensors, stored_shapes
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    JumpReLU,
    Origin,
    ReLU,
)


@final
@dataclass(frozen=True, slots=True)
class LayerFiles:
    """The two files of one layer of a cross-layer transcoder."""

    encoder: Path
    decoder: Path


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
    dims = sizes(files[0].encoder, shapes, W_enc="W_enc_0", b_enc="b_enc_0", b_dec="b_dec_0")
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
        f"W_enc_{i}": pick(dims, "feature", "d_in"),
        f"b_enc_{i}": pick(dims, "feature"),
        f"b_dec_{i}": pick(dims, "d_out"),
    }
    if jump:
        expected[f"threshold_{i}"] = pick(dims, "feature")
    tensors = read_tensors(path, expected, request)
    checked_threshold(path, tensors, f"threshold_{i}")
    return {name.removesuffix(f"_{i}"): tensor for name, tensor in tensors.items()}


def _read_decoder(path: Path, i: int, dims: Dims, request: Request) -> Tensor:
    """`[target feature d_out]`, a view of the published `[feature target d_out]`."""
    name = f"W_dec_{i}"
    expected = {name: pick(dims, "feature", "target", "d_out")}
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
