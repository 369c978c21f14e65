"""circuit-tracer's layouts: `config.yaml` beside the weights of a set or of a cross-layer transcoder.

A set has one `layer_{i}.safetensors` for every layer, or a list of files in the config:
`W_enc [feature d_in]`, `W_dec [feature d_out]`, `b_enc`, `b_dec`, and maybe `activation_function.threshold`
(JumpReLU, else ReLU) and `W_skip [d_out d_in]`. A cross-layer transcoder has `W_enc_{i}.safetensors` with
`W_enc_{i} [feature d_in]`, `b_enc_{i}`, `b_dec_{i}`, maybe `threshold_{i}`, and `W_dec_{i}.safetensors` with
`W_dec_{i} [feature target d_out]`.

Checked against circuit-tracer 0.5.0. Families: mntss/transcoder-Llama-3.2-1B, mntss/clt-*,
mwhanna/qwen3-*, and the lists of mntss/ and mwhanna/gemma-scope-transcoders.
"""

import re
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath

from tqdm import tqdm

from tl_transcoders.errors import ConfigError, HubError, TranscoderFormatError
from tl_transcoders.hub.circuit_tracer_config import (
    CONFIG,
    CircuitTracerConfig,
    choose_folder,
    config_from_dict,
)
from tl_transcoders.hub.circuit_tracer_cross_layer import LayerFiles, read_cross_layer
from tl_transcoders.hub.circuit_tracer_weights import read_transcoder
from tl_transcoders.hub.files import contained
from tl_transcoders.hub.format import Format, Loaded
from tl_transcoders.hub.references import Reference, fetch_references, parse_reference
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource
from tl_transcoders.hub.yaml import read_yaml
from tl_transcoders.transcoders import CrossLayerTranscoder, Origin, TranscoderSet

WANDB = ("wandb-config.yaml", "wanb-config.yaml")
QWEN3: Mapping[str, object] = {
    "model_kind": "transcoder_set",
    "feature_input_hook": "mlp.hook_in",
    "feature_output_hook": "mlp.hook_out",
}
"""What mwhanna's sets are where `config.yaml` says less or is missing, beside the training run's own config."""


def recognises(files: Set[str]) -> bool:
    """Whether a `config.yaml` is among them, in whichever folder, or the config of mwhanna's training run."""
    return any(PurePosixPath(name).name == CONFIG for name in files) or _is_qwen3("", files)


def read(source: AbstractSource, request: Request) -> Loaded:
    """The set or the cross-layer transcoder of `source`, its weights mapped from the files."""
    files = next(names for names in source.listings() if recognises(names))
    folder = "" if _is_qwen3("", files) else choose_folder(files, request, str(source))
    data: dict[str, object] = {}
    if f"{folder}{CONFIG}" in files:
        data = read_yaml(contained(source.root, f"{folder}{CONFIG}"))
    if _is_qwen3(folder, files):
        data = {**QWEN3, "model_name": _qwen3_name(source), **data}
    cfg = config_from_dict(f"{folder}{CONFIG}", data)
    match cfg.kind:
        case "transcoder_set":
            return _read_set(source, folder, cfg, request)
        case "cross_layer_transcoder":
            return _read_cross_layer(source, folder, cfg, request)


CIRCUIT_TRACER = Format(
    name="circuit-tracer",
    patterns=(CONFIG, f"*/{CONFIG}", *WANDB),
    recognises=recognises,
    read=read,
)


def _is_qwen3(folder: str, files: Set[str]) -> bool:
    return any(f"{folder}{name}" in files for name in WANDB)


def _qwen3_name(source: AbstractSource) -> str | None:
    size = re.search(r"qwen3-([0-9.]+)b", source.name)
    return None if size is None else f"Qwen/Qwen3-{size[1]}B"


def _read_set(
    source: AbstractSource, folder: str, cfg: CircuitTracerConfig, request: Request
) -> TranscoderSet:
    fetched = fetch_references(_references(source, folder, cfg, request), source, request)
    transcoders = {}
    for layer, path in tqdm(fetched.paths.items(), desc="Reading", unit="layer", delay=2):
        with _noting(layer, source):
            transcoders[layer] = read_transcoder(path, layer, cfg, request)
    return TranscoderSet(transcoders, origin=replace(_origin(cfg, source), others=fetched.others))


def _references(
    source: AbstractSource, folder: str, cfg: CircuitTracerConfig, request: Request
) -> dict[int, Reference]:
    if cfg.transcoders is None:
        chosen = _layers(source, f"{folder}layer", request)
        return {i: Reference(None, None, f"{folder}layer_{i}.safetensors") for i in chosen}
    chosen = request.choose(range(len(cfg.transcoders)), str(source))
    return {i: parse_reference(cfg.transcoders[i], folder) for i in chosen}


def _read_cross_layer(
    source: AbstractSource, folder: str, cfg: CircuitTracerConfig, request: Request
) -> CrossLayerTranscoder:
    if cfg.transcoders is not None:
        raise TranscoderFormatError(
            f"{folder}{CONFIG}, transcoders",
            got="a list of files for a cross-layer transcoder",
            expected="W_enc_{i} and W_dec_{i} beside the config",
            do="Load the repository that the list names instead.",
        )
    layers = _layers(source, f"{folder}W_enc", request)
    if layers != tuple(range(len(layers))):
        raise (TranscoderFormatError if request.layers is None else ConfigError)(
            "layers",
            got=f"layers {list(layers)} of a cross-layer transcoder",
            expected="its first layers without a gap, because every layer writes to all later ones",
            do=f"Download the others, or pass layers=range({layers[-1] + 1}).",
        )
    names = [(f"{folder}W_enc_{i}.safetensors", f"{folder}W_dec_{i}.safetensors") for i in layers]
    source.fetch([name for pair in names for name in pair])
    files = [LayerFiles(*(contained(source.root, name) for name in pair)) for pair in names]
    with _noting(None, source):
        return read_cross_layer(
            files, cfg, request, whole=request.layers is None, origin=_origin(cfg, source)
        )


def _layers(source: AbstractSource, stem: str, request: Request) -> tuple[int, ...]:
    """The layers asked for of those with a file `{stem}_{i}.safetensors`; the hub's listing only if need be."""
    numbered = re.compile(rf"{re.escape(stem)}_([0-9]{{1,4}})\.safetensors")
    available: frozenset[int] = frozenset()
    try:
        for files in source.listings():
            available = frozenset(
                int(found[1]) for found in map(numbered.fullmatch, files) if found
            )
            if request.layers is not None and request.layers <= available:
                break
    except HubError as error:
        error.add_note("Without the hub, name layers that are in the cache: load(..., layers=[…]).")
        raise
    if not available:
        raise TranscoderFormatError(
            str(source),
            got=f"no {stem}_{{i}}.safetensors",
            expected="one for every layer",
            do="Download the set again, or correct the config.",
        )
    return request.choose(available, str(source))


def _origin(cfg: CircuitTracerConfig, source: AbstractSource) -> Origin:
    return Origin(model_name=cfg.model_name, source=source.name, revision=source.revision)


@contextmanager
def _noting(layer: int | None, source: AbstractSource) -> Iterator[None]:
    try:
        yield
    except TranscoderFormatError as error:
        what = "" if layer is None else f"layer {layer} of "
        error.add_note(f"while reading {what}{source} (format: {CIRCUIT_TRACER.name})")
        raise
