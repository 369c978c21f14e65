"""dictionary_learning: SAEs of the residual stream, a folder with `config.json` and `ae.pt` for each.

`config.json` says the class, the layer, the widths and k; `ae.pt` is the module's state dict, with
`encoder.weight [feature d_in]` and `decoder.weight [d_in feature]`, or `W_enc [d_in feature]` and
`W_dec [feature d_in]`. BatchTopK and its Matryoshka form compare with the threshold they store; a gated
SAE becomes a JumpReLU one.
"""

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import final

from tqdm import tqdm

from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub.build import build
from tl_transcoders.hub.fields import Fields
from tl_transcoders.hub.files import contained, read_json
from tl_transcoders.hub.folders import folder_of_each_layer, folders_with
from tl_transcoders.hub.format import Format
from tl_transcoders.hub.layouts.dictionary_classes import (
    DictionaryClass,
    dictionary_class,
    dictionary_config,
    dictionary_weights,
)
from tl_transcoders.hub.named_folders import folders_asked_for
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource
from tl_transcoders.hub.torch_file import only_tensors, read_torch
from tl_transcoders.transcoders import (
    BatchTopK,
    Origin,
    TopK,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)

CONFIG = "config.json"
WEIGHTS = "ae.pt"

_LAYER = re.compile(r"layer_(\d{1,4})(?!\d)")


def recognises(files: Set[str]) -> bool:
    """Whether some folder holds both files."""
    return bool(folders_with(files, WEIGHTS, CONFIG))


def read(source: AbstractSource, request: Request) -> TranscoderSet:
    """One SAE for every layer asked for.

    `request.kind` is a folder's name or a pattern such as `"*/trainer_3"`, `request.width` the number of
    features and `request.l0` the k. Checkpoints of a training are only considered by `kind`.
    """
    folders = folders_asked_for(source, request, WEIGHTS, CONFIG, layer=_LAYER, default=_is_final)
    source.fetch([folder + CONFIG for folder in folders])
    described = {folder: _described(source, folder) for folder in folders}
    fitting = {folder: one for folder, one in described.items() if _fits(one.cfg, request)}
    if not fitting:
        raise _nothing_fits(str(source), request, described.values())
    layers = {folder: one.cfg.layer for folder, one in fitting.items()}
    chosen = folder_of_each_layer(layers, request, str(source))
    source.fetch([folder + WEIGHTS for folder in chosen.values()])
    progress = tqdm(chosen.items(), desc="Reading", unit="layer", delay=2)
    transcoders = {
        layer: _transcoder(source, folder, fitting[folder], request) for layer, folder in progress
    }
    names = {fitting[folder].model_name for folder in chosen.values()}
    model_name = names.pop() if len(names) == 1 else None
    origin = Origin(model_name=model_name, source=source.name, revision=source.revision)
    return TranscoderSet(transcoders, origin=origin)


DICTIONARY_LEARNING = Format(
    name="dictionary_learning", patterns=(), recognises=recognises, read=read
)


@final
@dataclass(frozen=True, slots=True)
class _Described:
    kind: DictionaryClass
    cfg: TranscoderConfig
    model_name: str | None


def _is_final(folder: str) -> bool:
    return "_checkpoints/" not in folder


def _fits(cfg: TranscoderConfig, request: Request) -> bool:
    return request.width in (None, str(cfg.n_features)) and request.l0 in (None, _k(cfg))


def _k(cfg: TranscoderConfig) -> str | None:
    return str(cfg.activation.k) if isinstance(cfg.activation, TopK | BatchTopK) else None


def _nothing_fits(where: str, request: Request, described: Iterable[_Described]) -> ConfigError:
    sizes = sorted({f"width={one.cfg.n_features} with l0={_k(one.cfg)}" for one in described})
    return ConfigError(
        where,
        got=f"width={request.width!r}, l0={request.l0!r}",
        expected=f"one of {'; '.join(sizes[:20])}",
        do="Pass the number of features and k, or choose by kind=.",
    )


def _described(source: AbstractSource, folder: str) -> _Described:
    name = folder + CONFIG
    trainer = Fields(name, read_json(contained(source.root, name))).nested("trainer")
    cfg = dictionary_config(trainer)
    named = _LAYER.search(folder)
    if named is not None and int(named[1]) != cfg.layer:
        raise trainer.wrong(
            "layer", expected=f"{named[1]}, as the folder is named", do="Rename the folder."
        )
    return _Described(dictionary_class(trainer), cfg, trainer.text_or_none("lm_name"))


def _transcoder(
    source: AbstractSource, folder: str, described: _Described, request: Request
) -> Transcoder:
    name, cfg = folder + WEIGHTS, described.cfg
    try:
        content = read_torch(contained(source.root, name))
        state = only_tensors(name, content if isinstance(content, Mapping) else {"": content})
        return build(cfg, dictionary_weights(name, described.kind, cfg, state, request))
    except TranscoderFormatError as error:
        error.add_note(
            f"while reading layer {cfg.layer} of {source} (format: {DICTIONARY_LEARNING.name})"
        )
        raise
