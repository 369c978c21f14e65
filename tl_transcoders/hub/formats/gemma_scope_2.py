"""Gemma Scope 2: `{kind}/layer_{L}_width_{16k}_l0_{small}[_affine]/params.safetensors`, and cross-layer sets.

A file holds `w_enc [d_in feature]`, `b_enc`, `w_dec [feature d_out]`, `b_dec`, `threshold`, and where the set is
affine `affine_skip_connection [d_in d_out]`; `config.json` beside it names the hooks. A cross-layer set is
`clt/width_{262k}_l0_{medium}[_affine]/params_layer_{L}.safetensors` with `w_dec [feature layer d_out]`, in which
the layers before L are unused.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Set
from pathlib import PurePosixPath

from torch import Tensor
from tqdm import tqdm

from tl_transcoders._types import Site
from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub.build import build, cross_layer_config, transcoder_config
from tl_transcoders.hub.files import contained, read_json
from tl_transcoders.hub.format import Format, Loaded
from tl_transcoders.hub.layouts.gemma_scope_2_config import (
    KINDS,
    GemmaScope2Config,
    of_config,
    of_folder,
)
from tl_transcoders.hub.layouts.gemma_scope_2_weights import (
    cross_layer_shapes,
    shapes,
    sizes,
    weights,
)
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource
from tl_transcoders.hub.tensors import read_tensors
from tl_transcoders.hub.variants import Catalogue, Variant, choose_variant
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    JumpReLU,
    Origin,
    Transcoder,
    TranscoderSet,
)

CLT = "clt"
DEFAULT = "transcoder_all"
CONFIG = "config.json"

_SIZE = r"width_(?P<width>\d+[km])_l0_(?P<l0>[a-z]+)(?P<suffix>(?:_affine|_seed_\d+)*)"
_LAYER = r"0|[1-9][0-9]{0,5}"
_ONE = re.compile(
    rf"(?P<kind>(?:{'|'.join(KINDS)})(?:_all)?)/layer_(?P<layer>{_LAYER})_{_SIZE}/params\.safetensors"
)
_CROSS = re.compile(rf"(?P<kind>{CLT})/{_SIZE}/params_layer_(?P<layer>{_LAYER})\.safetensors")


def catalogue(files: Set[str]) -> Catalogue:
    """The sets among these files; a suffix such as `_affine` belongs to the kind: `transcoder_all_affine`."""
    sets: dict[Variant, dict[int, str]] = defaultdict(dict)
    for name in files:
        if found := _ONE.fullmatch(name) or _CROSS.fullmatch(name):
            kind = found["kind"] + found["suffix"]
            sets[Variant(kind, found["width"], found["l0"])][int(found["layer"])] = name
    return dict(sets)


def recognises(files: Set[str]) -> bool:
    """Whether some file has a name of Gemma Scope 2."""
    return bool(catalogue(files))


def read(source: AbstractSource, request: Request) -> Loaded:
    """The one set that kind, width and L0 name, `transcoder_all` where no kind is named."""
    variant, files = choose_variant(source, catalogue, request, default=DEFAULT)
    if variant.kind.startswith(CLT):
        return _cross_layer(source, request, variant, files)
    chosen = request.choose(files, str(source))
    _fetch(source, {layer: files[layer] for layer in chosen})
    read_one = [
        _one(source, request, variant.kind, layer, files[layer]) for layer in _shown(chosen)
    ]
    transcoders = {transcoder.cfg.layer: transcoder for transcoder, _ in read_one}
    return TranscoderSet(transcoders, origin=_origin(source, read_one[0][1]))


GEMMA_SCOPE_2 = Format(name="Gemma Scope 2", patterns=(), recognises=recognises, read=read)


def _one(
    source: AbstractSource, request: Request, kind: str, layer: int, name: str
) -> tuple[Transcoder, GemmaScope2Config]:
    try:
        config = _config(source, name, kind, layer)
        path = contained(source.root, name)
        cfg = transcoder_config(
            name, layer=layer, **sizes(path), activation=JumpReLU(), **_taps(config)
        )
        return build(cfg, weights(read_tensors(path, shapes(cfg), request))), config
    except TranscoderFormatError as error:
        error.add_note(_note(source, layer))
        raise


def _cross_layer(
    source: AbstractSource, request: Request, variant: Variant, files: Mapping[int, str]
) -> CrossLayerTranscoder:
    layers = tuple(sorted(files))
    _check_whole(str(source), request, layers)
    _fetch(source, files)
    config = _config(source, files[0], variant.kind, None)
    dims = sizes(contained(source.root, files[0]))
    cfg = cross_layer_config(
        files[0], layers=layers, **dims, activation=JumpReLU(), **_taps(config)
    )
    tensors = [_tensors(source, request, layer, files[layer], cfg) for layer in _shown(layers)]
    return CrossLayerTranscoder(
        cfg,
        W_enc=[t["w_enc"] for t in tensors],
        b_enc=[t["b_enc"] for t in tensors],
        W_dec=[t["w_dec"][:, i:].movedim(1, 0) for i, t in enumerate(tensors)],
        b_dec=[t["b_dec"] for t in tensors],
        W_skip=[t["affine_skip_connection"] for t in tensors] if config.affine else None,
        threshold=[t["threshold"] for t in tensors],
        origin=_origin(source, config),
    ).requires_grad_(False)


def _tensors(
    source: AbstractSource, request: Request, layer: int, name: str, cfg: CrossLayerConfig
) -> dict[str, Tensor]:
    try:
        return read_tensors(contained(source.root, name), cross_layer_shapes(cfg), request)
    except TranscoderFormatError as error:
        error.add_note(_note(source, layer))
        raise


def _taps(config: GemmaScope2Config) -> dict[str, Site | bool]:
    return {"read": config.read, "write": config.write, "skip": config.affine}


def _note(source: AbstractSource, layer: int) -> str:
    return f"while reading layer {layer} of {source} (format: {GEMMA_SCOPE_2.name})"


def _check_whole(where: str, request: Request, layers: tuple[int, ...]) -> None:
    if layers != tuple(range(len(layers))):
        raise TranscoderFormatError(
            where,
            got=f"files of layers {list(layers)}",
            expected="one for every layer from 0",
            do="Download the set again.",
        )
    if request.choose(layers, where) != layers:
        raise ConfigError(
            "layers",
            got=f"some layers of a cross-layer transcoder, {sorted(request.layers or ())}",
            expected=f"all of them, {list(layers)}",
            do="Leave layers out: its layers decode into one another and work only together.",
        )


def _fetch(source: AbstractSource, files: Mapping[int, str]) -> None:
    source.fetch([*files.values(), *{_config_name(name) for name in files.values()}])


def _config_name(name: str) -> str:
    return str(PurePosixPath(name).with_name(CONFIG))


def _config(source: AbstractSource, name: str, kind: str, layer: int | None) -> GemmaScope2Config:
    """Some folders of the release have no config; their names say the same."""
    config = _config_name(name)
    if not (source.root / config).exists():
        return of_folder(kind)
    return of_config(config, read_json(contained(source.root, config)), kind, layer=layer)


def _origin(source: AbstractSource, config: GemmaScope2Config) -> Origin:
    return Origin(model_name=config.model_name, source=source.name, revision=source.revision)


def _shown(layers: tuple[int, ...]) -> "tqdm[int]":
    return tqdm(layers, desc="Reading", unit="layer", delay=2)
