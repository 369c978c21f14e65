"""EleutherAI's clt-training, cross-layer runs: a folder `layers.{N}.mlp` with `cfg.json` and `sae.safetensors`.

The fork of sparsify behind nev/SmolLM2-CLT-135M-73k-k32 and EleutherAI/gpt2-clt-*; its runs of one target are
sparsify's layout. Checked against its public source only (config.py, sparse_coder.py and runner.py of 2025):
no package of it is published, and no release was seen.
"""

import re
from collections.abc import Set

from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub.clt_training_config import LayerConfig, is_cross_layer, layer_config
from tl_transcoders.hub.clt_training_weights import Tensors, expected_shapes, fold
from tl_transcoders.hub.files import contained, read_json
from tl_transcoders.hub.folders import folder_of_each_layer, folders_named, folders_with
from tl_transcoders.hub.format import Format
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource, names_below
from tl_transcoders.hub.tensors import read_tensors, stored_shapes
from tl_transcoders.transcoders import CrossLayerTranscoder, Origin

CONFIG, WEIGHTS, RUN = "cfg.json", "sae.safetensors", "config.json"

_FOLDER = re.compile(r"(?:model\.|transformer\.)?(?:layers|h)\.([0-9]{1,3})\.mlp/")


def recognises(files: Set[str]) -> bool:
    """Whether there is a folder for the MLP of a layer, with a config."""
    return bool(_layers(files))


def confirms(source: AbstractSource) -> bool:
    """Whether the configs on disk are of features with several targets."""
    return any(
        is_cross_layer(read_json(contained(source.root, folder + CONFIG)))
        for folder in _layers(names_below(source.root))
    )


def read(source: AbstractSource, request: Request) -> CrossLayerTranscoder:
    """The cross-layer transcoder of all layers; what has to be folded is copied."""
    where = str(source)
    layers = _layers(names_below(source.root))
    named = {folder: layers[folder] for folder in folders_named(layers, request, where)}
    chosen = folder_of_each_layer(named, request, where)
    if list(chosen) != list(range(len(set(named.values())))):
        raise (TranscoderFormatError if request.layers is None else ConfigError)(
            "layers",
            got=f"some layers of a cross-layer transcoder of layers {sorted(set(named.values()))}",
            expected="all of them, from 0 on",
            do="Leave layers out, and download those that are missing.",
        )
    names = list(chosen.values())
    source.fetch([RUN, *(name + WEIGHTS for name in names)])
    _refuse_other_inputs(source)
    cfgs = [_config(source, name) for name in names]
    _check_agree(cfgs)
    weights = [_weights(source, name, cfg, request) for name, cfg in zip(names, cfgs, strict=True)]
    return fold(cfgs, weights, Origin(source=source.name, revision=source.revision))


CLT_TRAINING = Format(
    name="clt-training",
    patterns=(CONFIG, f"*/{CONFIG}"),
    recognises=recognises,
    confirms=confirms,
    read=read,
)


def _layers(files: Set[str]) -> dict[str, int]:
    """The layer of each folder."""
    found = map(_FOLDER.fullmatch, folders_with(files, CONFIG))
    return {match[0]: int(match[1]) for match in found if match}


def _config(source: AbstractSource, folder: str) -> LayerConfig:
    return layer_config(folder + CONFIG, read_json(contained(source.root, folder + CONFIG)))


def _weights(source: AbstractSource, folder: str, cfg: LayerConfig, request: Request) -> Tensors:
    try:
        path = contained(source.root, folder + WEIGHTS)
        return read_tensors(path, expected_shapes(cfg, stored_shapes(path)), request)
    except TranscoderFormatError as error:
        error.add_note(f"while reading {folder} of {source} (format: {CLT_TRAINING.name})")
        raise


def _check_agree(cfgs: list[LayerConfig]) -> None:
    first = cfgs[0]
    for i, cfg in enumerate(cfgs):
        sources = i + 1 if first.mode == "per-layer" else cfg.n_sources
        same = (first.d_in, first.n_features, first.k, first.mode, first.skip)
        agrees = (cfg.d_in, cfg.n_features, cfg.k, cfg.mode, cfg.skip) == same
        normalised = (cfg.normalised, cfg.scaled) == (first.normalised, first.scaled)
        if not (
            agrees and normalised and cfg.n_targets == len(cfgs) - i and cfg.n_sources == sources
        ):
            raise TranscoderFormatError(
                f"layer {i}, {CONFIG}",
                got=str(cfg),
                expected=f"what layer 0 says, with n_targets={len(cfgs) - i}",
                do="Features must write to every later layer, and every layer be there.",
            )


def _refuse_other_inputs(source: AbstractSource) -> None:
    if not (source.root / RUN).exists():
        return
    inputs = read_json(contained(source.root, RUN)).get("hookpoints_in")
    if inputs:
        raise TranscoderFormatError(
            f"{RUN}, hookpoints_in",
            got=repr(inputs)[:100],
            expected="none: features that read what the MLP receives",
            do="The tap of these features is not known: the set cannot be loaded.",
        )
