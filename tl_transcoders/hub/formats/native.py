"""Our own layout: `transcoders.json` beside one `layer_{L}.safetensors` for every layer.

Written by `tl_transcoders.hub.save`. A layer's file holds
`W_enc.T [feature d_in]`, `b_enc`, `W_dec [feature d_out]`, `b_dec`, and where declared
`W_skip [d_in d_out]` and `threshold`. In the files of a cross-layer transcoder `W_dec` is
`[target feature d_out]`. The encoder lies feature by feature, so that one feature is one contiguous read.
"""

from collections.abc import Mapping, Sequence, Set

from torch import Tensor
from tqdm import tqdm

from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub.files import check_sha256, check_size, contained, read_json
from tl_transcoders.hub.format import Format, Loaded
from tl_transcoders.hub.native_index import (
    INDEX,
    CrossLayerIndex,
    LayerFile,
    SetIndex,
    index_from_dict,
)
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource
from tl_transcoders.hub.tensors import Dims, read_tensors
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    Origin,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)
from tl_transcoders.transcoders.activations import needs_threshold


def recognises(files: Set[str]) -> bool:
    """Whether the folder holds `transcoders.json`."""
    return INDEX in files


def read(source: AbstractSource, request: Request) -> Loaded:
    """The transcoders of `source`, their weights mapped from its files and with `requires_grad=False`."""
    request.refuse_variants(str(source))
    index = index_from_dict(read_json(contained(source.root, INDEX)))
    match index:
        case SetIndex():
            return _read_set(source, index, request)
        case CrossLayerIndex():
            return _read_cross_layer(source, index, request)


NATIVE = Format(name="tl_transcoders", patterns=(INDEX,), recognises=recognises, read=read)


def _read_set(source: AbstractSource, index: SetIndex, request: Request) -> TranscoderSet:
    configs = {config.layer: config for config in index.configs}
    chosen = request.choose(configs, str(source))
    by_layer = {file.layer: file for file in index.files}
    files = [by_layer[layer] for layer in chosen]
    tensors = _read_layers(source, files, [_shapes(configs[layer]) for layer in chosen], request)
    transcoders = {
        layer: _transcoder(configs[layer], weights)
        for layer, weights in zip(chosen, tensors, strict=True)
    }
    origin = Origin(model_name=index.model_name, source=source.name, revision=source.revision)
    return TranscoderSet(transcoders, origin=origin)


def _read_cross_layer(
    source: AbstractSource, index: CrossLayerIndex, request: Request
) -> CrossLayerTranscoder:
    cfg = index.config
    if request.choose(cfg.layers, str(source)) != cfg.layers:
        raise ConfigError(
            "layers",
            got=f"some layers of a cross-layer transcoder, {sorted(request.layers or ())}",
            expected=f"all of them, {list(cfg.layers)}",
            do="Leave layers out: its layers decode into one another and work only together.",
        )
    shapes = [_cross_layer_shapes(cfg, i) for i in range(len(cfg.layers))]
    tensors = _read_layers(source, index.files, shapes, request)
    return CrossLayerTranscoder(
        cfg,
        W_enc=[t["W_enc.T"].T for t in tensors],
        b_enc=[t["b_enc"] for t in tensors],
        W_dec=[t["W_dec"] for t in tensors],
        b_dec=[t["b_dec"] for t in tensors],
        W_skip=[t["W_skip"] for t in tensors] if cfg.skip else None,
        threshold=[t["threshold"] for t in tensors] if needs_threshold(cfg.activation) else None,
        origin=Origin(model_name=index.model_name, source=source.name, revision=source.revision),
    ).requires_grad_(False)


def _transcoder(cfg: TranscoderConfig, tensors: Mapping[str, Tensor]) -> Transcoder:
    return Transcoder(
        cfg,
        W_enc=tensors["W_enc.T"].T,
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        W_skip=tensors.get("W_skip"),
        threshold=tensors.get("threshold"),
    ).requires_grad_(False)


def _read_layers(
    source: AbstractSource,
    files: Sequence[LayerFile],
    shapes: Sequence[Mapping[str, Dims]],
    request: Request,
) -> list[dict[str, Tensor]]:
    source.fetch([file.file for file in files])
    both = tqdm(
        zip(files, shapes, strict=True), desc="Reading", unit="layer", total=len(files), delay=2
    )
    return [_read_layer(source, file, expected, request) for file, expected in both]


def _read_layer(
    source: AbstractSource, file: LayerFile, shapes: Mapping[str, Dims], request: Request
) -> dict[str, Tensor]:
    try:
        path = contained(source.root, file.file)
        check_size(path, file.bytes)
        if request.verify and file.sha256 is not None:
            check_sha256(path, file.sha256)
        return read_tensors(path, shapes, request)
    except TranscoderFormatError as error:
        error.add_note(f"while reading layer {file.layer} of {source} (format: {NATIVE.name})")
        raise


def _shapes(cfg: TranscoderConfig | CrossLayerConfig) -> dict[str, Dims]:
    shapes: dict[str, Dims] = {
        "W_enc.T": {"feature": cfg.n_features, "d_in": cfg.d_in},
        "b_enc": {"feature": cfg.n_features},
        "W_dec": {"feature": cfg.n_features, "d_out": cfg.d_out},
        "b_dec": {"d_out": cfg.d_out},
    }
    if cfg.skip:
        shapes["W_skip"] = {"d_in": cfg.d_in, "d_out": cfg.d_out}
    if needs_threshold(cfg.activation):
        shapes["threshold"] = {"feature": cfg.n_features}
    return shapes


def _cross_layer_shapes(cfg: CrossLayerConfig, i: int) -> dict[str, Dims]:
    shapes = _shapes(cfg)
    return {**shapes, "W_dec": {"target": len(cfg.layers) - i, **shapes["W_dec"]}}
