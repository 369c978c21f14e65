"""EleutherAI's sparsify: a folder for every hookpoint, with `cfg.json` and `sae.safetensors`.

The tensors are `encoder.weight [feature d_in]`, `encoder.bias`, `W_dec [feature d_out]`, `b_dec` and, where the
config says so, `W_skip [d_out d_in]`. The run's `config.json` lies beside the folders.
"""

from collections.abc import Mapping, Set

from tqdm import tqdm

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.build import build
from tl_transcoders.hub.fields import Fields
from tl_transcoders.hub.files import contained, read_json
from tl_transcoders.hub.folders import folder_of_each_layer, folders_named, folders_with
from tl_transcoders.hub.format import Format
from tl_transcoders.hub.layouts.sparsify_config import SparsifyConfig, sparsify_config
from tl_transcoders.hub.layouts.sparsify_hookpoints import Hookpoint, hookpoint_of
from tl_transcoders.hub.layouts.sparsify_weights import canonical, shapes
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource, names_below
from tl_transcoders.hub.tensors import read_tensors
from tl_transcoders.transcoders import Origin, Transcoder, TranscoderSet

CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"
RUN = "config.json"


def recognises(files: Set[str]) -> bool:
    """Whether some folder named after a hookpoint holds both files."""
    return bool(_hookpoints(folders_with(files, CONFIG, WEIGHTS)))


def read(source: AbstractSource, request: Request) -> TranscoderSet:
    """One transcoder or SAE for every layer asked for."""
    where = str(source)
    hookpoints = _hookpoints(folders_with(names_below(source.root), CONFIG))
    named = folders_named(hookpoints, request, where)
    layers = {folder: hookpoints[folder].layer for folder in named}
    chosen = folder_of_each_layer(layers, request, where)
    source.fetch([RUN, *(folder + WEIGHTS for folder in chosen.values())])
    run = _run(source)
    transcodes = run.flag("transcode") if run.data else None
    transcoders = {
        layer: _transcoder(source, request, folder, hookpoints[folder], transcodes)
        for layer, folder in tqdm(chosen.items(), desc="Reading", unit="layer", delay=2)
    }
    origin = Origin(
        model_name=run.text_or_none("model"), source=source.name, revision=source.revision
    )
    return TranscoderSet(transcoders, origin=origin)


SPARSIFY = Format(
    name="sparsify", patterns=(CONFIG, f"*/{CONFIG}"), recognises=recognises, read=read
)


def _hookpoints(folders: tuple[str, ...]) -> dict[str, Hookpoint]:
    found = {folder: hookpoint_of(folder) for folder in folders}
    return {folder: hookpoint for folder, hookpoint in found.items() if hookpoint is not None}


def _run(source: AbstractSource) -> Fields:
    there = (source.root / RUN).exists()
    data: Mapping[str, object] = read_json(contained(source.root, RUN)) if there else {}
    return Fields(RUN, data)


def _transcoder(
    source: AbstractSource,
    request: Request,
    folder: str,
    hookpoint: Hookpoint,
    transcodes: bool | None,
) -> Transcoder:
    try:
        config = _config(source, folder, hookpoint, transcodes)
        path = contained(source.root, folder + WEIGHTS)
        tensors = read_tensors(path, shapes(config), request)
        return build(config.transcoder, canonical(config, tensors))
    except TranscoderFormatError as error:
        note = f"while reading layer {hookpoint.layer} of {source} (format: {SPARSIFY.name})"
        error.add_note(note)
        raise


def _config(
    source: AbstractSource, folder: str, hookpoint: Hookpoint, transcodes: bool | None
) -> SparsifyConfig:
    name = folder + CONFIG
    data = read_json(contained(source.root, name))
    return sparsify_config(name, data, hookpoint, transcodes=transcodes)
