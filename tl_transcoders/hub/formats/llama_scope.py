"""Llama Scope: SAEs of Llama-3.1-8B, a folder with `hyperparams.json` and `checkpoints/final.safetensors` for each.

`encoder.weight [feature d_in]`, `encoder.bias`, `decoder.weight [d_out feature]`, `decoder.bias`. The weights
read and write activations scaled to a mean norm of sqrt(d_model), and the threshold is compared in units of x
and of a unit-norm decoder, as their own code does where it runs them.

Source: He et al. 2024, Llama Scope.
"""

import re
from collections.abc import Set

from tqdm import tqdm

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.build import build
from tl_transcoders.hub.fields import Fields
from tl_transcoders.hub.files import contained, read_json
from tl_transcoders.hub.folders import folder_of_each_layer, folders_with, refuse_sizes
from tl_transcoders.hub.format import Format
from tl_transcoders.hub.layouts.llama_scope import LlamaScopeConfig, canonical, llama_scope_config
from tl_transcoders.hub.named_folders import folders_asked_for
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource
from tl_transcoders.hub.tensors import read_tensors
from tl_transcoders.transcoders import Origin, Transcoder, TranscoderSet

CONFIG = "hyperparams.json"
WEIGHTS = "checkpoints/final.safetensors"

_LAYER = re.compile(r"-L(\d{1,4})[A-Z]+-\d+x/$")
_MODEL = re.compile(r"Llama3_1-8B-Base-L\d+[A-Z]+-\d+x/$")


def recognises(files: Set[str]) -> bool:
    """Whether some folder holds both files."""
    return bool(folders_with(files, CONFIG, WEIGHTS))


def read(source: AbstractSource, request: Request) -> TranscoderSet:
    """One SAE for every layer asked for; `request.kind` is a folder's name or a pattern such as `"*R-8x"`."""
    refuse_sizes(request, str(source))
    folders = folders_asked_for(source, request, CONFIG, WEIGHTS, layer=_LAYER)
    source.fetch([folder + CONFIG for folder in folders])
    configs = {folder: _config(source, folder) for folder in folders}
    layers = {folder: config.transcoder.layer for folder, config in configs.items()}
    chosen = folder_of_each_layer(layers, request, str(source))
    source.fetch([folder + WEIGHTS for folder in chosen.values()])
    progress = tqdm(chosen.items(), desc="Reading", unit="layer", delay=2)
    transcoders = {
        layer: _transcoder(source, folder, configs[folder], request) for layer, folder in progress
    }
    known = all(_MODEL.search(folder) for folder in chosen.values())
    model_name = "meta-llama/Llama-3.1-8B" if known else None
    origin = Origin(model_name=model_name, source=source.name, revision=source.revision)
    return TranscoderSet(transcoders, origin=origin)


LLAMA_SCOPE = Format(name="Llama Scope", patterns=(), recognises=recognises, read=read)


def _config(source: AbstractSource, folder: str) -> LlamaScopeConfig:
    name = folder + CONFIG
    config = llama_scope_config(Fields(name, read_json(contained(source.root, name))))
    named = _LAYER.search(folder)
    if named is not None and int(named[1]) != config.transcoder.layer:
        raise TranscoderFormatError(
            name,
            got=f"hooks of layer {config.transcoder.layer}",
            expected=f"of layer {named[1]}, as the folder is named",
            do="Rename the folder, or do not trust it.",
        )
    return config


def _transcoder(
    source: AbstractSource, folder: str, config: LlamaScopeConfig, request: Request
) -> Transcoder:
    cfg = config.transcoder
    try:
        path = contained(source.root, folder + WEIGHTS)
        tensors = read_tensors(path, config.shapes(), request)
        return build(cfg, canonical(config, tensors))
    except TranscoderFormatError as error:
        error.add_note(f"while reading layer {cfg.layer} of {source} (format: {LLAMA_SCOPE.name})")
        raise
