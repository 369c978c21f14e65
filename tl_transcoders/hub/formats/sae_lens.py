"""SAELens: a folder with `cfg.json` and `sae_weights.safetensors`, or one such folder for every layer.

The tensors are `W_enc [d_in feature]`, `b_enc`, `W_dec [feature d_out]`, `b_dec`, and by architecture
`W_skip [d_out d_in]`, `threshold`, or `r_mag`, `b_mag`, `b_gate` of a gated SAE.
"""

from collections.abc import Mapping, Set
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.build import build
from tl_transcoders.hub.fields import Fields
from tl_transcoders.hub.files import contained, read_json
from tl_transcoders.hub.folders import folder_of_each_layer, folders_named, folders_with
from tl_transcoders.hub.format import Format
from tl_transcoders.hub.layouts.sae_lens_config import SaeLensConfig, sae_lens_config
from tl_transcoders.hub.layouts.sae_lens_weights import canonical, optional_shapes, shapes
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource, names_below
from tl_transcoders.hub.tensors import read_tensors, stored_shapes
from tl_transcoders.transcoders import Origin, Transcoder, TranscoderSet

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SCALE = "activation_scaler.json"


def recognises(files: Set[str]) -> bool:
    """Whether some folder holds both files."""
    return bool(folders_with(files, CONFIG, WEIGHTS))


def read(source: AbstractSource, request: Request) -> TranscoderSet:
    """One transcoder or SAE for every layer asked for."""
    where = str(source)
    folders = folders_named(folders_with(names_below(source.root), CONFIG), request, where)
    configs = {folder: _config(source, folder) for folder in folders}
    layers = {folder: config.transcoder.layer for folder, config in configs.items()}
    chosen = folder_of_each_layer(layers, request, where)
    source.fetch([name for folder in chosen.values() for name in _files(folder, configs[folder])])
    progress = tqdm(chosen.items(), desc="Reading", unit="layer", delay=2)
    transcoders = {
        layer: _transcoder(source, folder, configs[folder], request) for layer, folder in progress
    }
    names = {configs[folder].model_name for folder in chosen.values()}
    model_name = names.pop() if len(names) == 1 else None
    origin = Origin(model_name=model_name, source=source.name, revision=source.revision)
    return TranscoderSet(transcoders, origin=origin)


SAE_LENS = Format(
    name="SAELens", patterns=(CONFIG, f"*/{CONFIG}"), recognises=recognises, read=read
)


def _config(source: AbstractSource, folder: str) -> SaeLensConfig:
    name = folder + CONFIG
    return sae_lens_config(name, read_json(contained(source.root, name)))


def _files(folder: str, config: SaeLensConfig) -> tuple[str, ...]:
    return (folder + WEIGHTS, folder + SCALE) if config.input_scale else (folder + WEIGHTS,)


def _transcoder(
    source: AbstractSource, folder: str, config: SaeLensConfig, request: Request
) -> Transcoder:
    layer = config.transcoder.layer
    try:
        scale = _scale(source, folder) if config.input_scale else None
        tensors = _tensors(contained(source.root, folder + WEIGHTS), config, request)
        return build(config.transcoder, canonical(config, tensors, scale=scale))
    except TranscoderFormatError as error:
        error.add_note(f"while reading layer {layer} of {source} (format: {SAE_LENS.name})")
        raise


def _tensors(path: Path, config: SaeLensConfig, request: Request) -> Mapping[str, Tensor]:
    stored = stored_shapes(path)
    extra = {name: dims for name, dims in optional_shapes(config).items() if name in stored}
    return read_tensors(path, {**shapes(config), **extra}, request)


def _scale(source: AbstractSource, folder: str) -> float:
    name = folder + SCALE
    if name not in names_below(source.root):
        raise TranscoderFormatError(
            folder + CONFIG,
            got="normalize_activations = expected_average_only_in, and no file with the scale",
            expected=f"the scale of the input in {name}",
            do="Fold the scale into the weights with SAELens (fold_activation_norm_scaling_factor).",
        )
    fields = Fields(name, read_json(contained(source.root, name)))
    scale = fields.number("scaling_factor")
    if not 0 < scale < float("inf"):
        raise fields.wrong("scaling_factor", expected="a positive number", do="Correct the file.")
    return scale
