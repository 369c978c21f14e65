"""Gemma Scope (Gemma 2): `layer_{L}/width_{w}/average_l0_{n}/params.npz`, JumpReLU.

`W_enc [d_in feature]`, `b_enc`, `W_dec [feature d_out]`, `b_dec` and `threshold`; the files do not say
what they read and write, the repository's name does:

    -transcoders  x after ln2 without its gain     y what is added to the residual stream (after the post-norm)
    -res, -mlp, -att                               SAEs of the residual stream, of that y, and of z

Source: Lieberum et al. 2024, Gemma Scope.
"""

import re
from collections.abc import Mapping, Set
from pathlib import PurePath

from torch import Tensor
from tqdm import tqdm

from tl_transcoders._types import Site
from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub.average_l0 import Variant, choose_variant, is_settled
from tl_transcoders.hub.build import build, transcoder_config
from tl_transcoders.hub.canonical import Weights
from tl_transcoders.hub.files import contained
from tl_transcoders.hub.format import Format
from tl_transcoders.hub.listing import files_by_layer
from tl_transcoders.hub.npz import read_npz
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource
from tl_transcoders.hub.tensors import Dims, checked
from tl_transcoders.transcoders import JumpReLU, Origin, Transcoder, TranscoderConfig, TranscoderSet

_FILE = re.compile(r"layer_(\d{1,4})/width_(\d{1,9}[km]?)/average_l0_(\d{1,9})/params\.npz")
_REPOSITORY = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(transcoders|res|mlp|att)")

TAPS: Mapping[str, tuple[Site, Site]] = {
    "transcoders": ("ln2_normalized", "mlp_out"),
    "res": ("resid_post", "resid_post"),
    "mlp": ("mlp_out", "mlp_out"),
    "att": ("z", "z"),
}


def recognises(files: Set[str]) -> bool:
    """Whether a file has the path of a layer's parameters."""
    return any(_FILE.fullmatch(name) for name in files)


def read(source: AbstractSource, request: Request) -> TranscoderSet:
    """One transcoder or SAE for every layer, of the width and L0 asked for.

    `request.l0` is the number in the folder's name, or `"~100"` for the nearest one in each layer.
    """
    where = str(source)
    kind = _kind(source, request)
    variants = files_by_layer(
        source, request, _by_layer, suffices=lambda found: is_settled(found, request)
    )
    chosen = request.choose(variants, where)
    files = {
        layer: choose_variant(variants[layer], request, f"{where}, layer {layer}")
        for layer in chosen
    }
    source.fetch(list(files.values()))
    progress = tqdm(files.items(), desc="Reading", unit="layer", delay=2)
    transcoders = {
        layer: _read_layer(source, layer, kind, name, request) for layer, name in progress
    }
    origin = Origin(model_name=_model_name(source), source=source.name, revision=source.revision)
    return TranscoderSet(transcoders, origin=origin)


GEMMA_SCOPE = Format(name="Gemma Scope", patterns=(), recognises=recognises, read=read)


def _by_layer(files: Set[str]) -> dict[int, list[Variant]]:
    by_layer: dict[int, list[Variant]] = {}
    for match in filter(None, map(_FILE.fullmatch, sorted(files))):
        by_layer.setdefault(int(match[1]), []).append(Variant(match[2], int(match[3]), match[0]))
    return by_layer


def _kind(source: AbstractSource, request: Request) -> str:
    named = _REPOSITORY.search(PurePath(source.name).name)
    possible = list(TAPS) if named is None else [named[3]]
    kind = request.kind or possible[0]
    if kind not in possible or (named is None and request.kind is None):
        raise ConfigError(
            str(source),
            got=f"kind={request.kind!r}",
            expected=f"one of {possible}",
            do="Pass kind=: only the repository's name says what the files read and write.",
        )
    return kind


def _model_name(source: AbstractSource) -> str | None:
    named = _REPOSITORY.search(PurePath(source.name).name)
    if named is None:
        return None
    return f"google/gemma-2-{named[1]}{'-it' if named[2] == 'it' else ''}"


def _read_layer(
    source: AbstractSource, layer: int, kind: str, name: str, request: Request
) -> Transcoder:
    try:
        path = contained(source.root, name)
        tensors = read_npz(path)
        cfg = _config(name, layer, kind, tensors)
        return build(cfg, Weights(**checked(name, tensors, _shapes(cfg), request)))
    except TranscoderFormatError as error:
        error.add_note(f"while reading layer {layer} of {source} (format: {GEMMA_SCOPE.name})")
        raise


def _config(where: str, layer: int, kind: str, tensors: Mapping[str, Tensor]) -> TranscoderConfig:
    shape = tuple(tensors["W_enc"].shape) if "W_enc" in tensors else ()
    if len(shape) != 2:
        raise TranscoderFormatError(
            f"{where}, W_enc",
            got=f"shape {shape}" if shape else "nothing",
            expected="a matrix (d_in, feature)",
            do="Download the file again.",
        )
    read_site, write_site = TAPS[kind]
    return transcoder_config(
        where,
        layer=layer,
        d_in=shape[0],
        d_out=shape[0],
        n_features=shape[1],
        activation=JumpReLU(),
        read=read_site,
        write=write_site,
    )


def _shapes(cfg: TranscoderConfig) -> dict[str, Dims]:
    return {
        "W_enc": {"d_in": cfg.d_in, "feature": cfg.n_features},
        "b_enc": {"feature": cfg.n_features},
        "W_dec": {"feature": cfg.n_features, "d_out": cfg.d_out},
        "b_dec": {"d_out": cfg.d_out},
        "threshold": {"feature": cfg.n_features},
    }
