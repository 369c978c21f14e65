"""What `transcoders.json` says: the kind of set, its configs and its weight files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any, TypeVar, assert_never, final

from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.transcoders import CrossLayerConfig, TranscoderConfig

INDEX = "transcoders.json"
FORMAT = "tl_transcoders"
VERSION = 1
SET = "transcoder_set"
CROSS_LAYER = "cross_layer_transcoder"

Config = TypeVar("Config", TranscoderConfig, CrossLayerConfig)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFile:
    """The weight file of one layer."""

    layer: int
    file: str
    bytes: int
    sha256: str | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SetIndex:
    """A transcoder for each of some layers, every one with its own config."""

    model_name: str | None
    files: tuple[LayerFile, ...]
    configs: tuple[TranscoderConfig, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CrossLayerIndex:
    """One cross-layer transcoder, with a file for each of its layers."""

    model_name: str | None
    files: tuple[LayerFile, ...]
    config: CrossLayerConfig


Index = SetIndex | CrossLayerIndex


def index_to_dict(index: Index) -> dict[str, object]:
    """Plain data for JSON."""
    head = {"format": FORMAT, "version": VERSION, "model_name": index.model_name}
    match index:
        case SetIndex(files=files, configs=configs):
            both = zip(files, configs, strict=True)
            layers = [{**asdict(file), "config": config.to_dict()} for file, config in both]
            return {**head, "kind": SET, "layers": layers}
        case CrossLayerIndex(files=files, config=config):
            layers = [asdict(file) for file in files]
            return {**head, "kind": CROSS_LAYER, "config": config.to_dict(), "layers": layers}
        case _:
            assert_never(index)


def index_from_dict(data: Mapping[str, object]) -> Index:
    """The inverse of `index_to_dict`; anything else raises TranscoderFormatError."""
    _check_constant(data, "format", FORMAT)
    _check_constant(data, "version", VERSION)
    match data.get("kind"):
        case "transcoder_set":
            index = _set_index(data)
            expected = [config.layer for config in index.configs]
        case "cross_layer_transcoder":
            index = _cross_layer_index(data)
            expected = list(index.config.layers)
        case kind:
            raise _wrong(f"{INDEX}, kind", got=repr(kind), expected=f"{SET} or {CROSS_LAYER}")
    found = [file.layer for file in index.files]
    if not found or found != expected or len(set(found)) < len(found):
        raise _wrong(
            f"{INDEX}, layers",
            got=f"files of layers {found}",
            expected=f"one file for every config, whose layers are {expected}",
        )
    return index


_Kinds = Mapping[str, tuple[type, ...]]
_HEAD: _Kinds = {
    "format": (str,),
    "version": (int,),
    "kind": (str,),
    "model_name": (str, NoneType),
    "layers": (list,),
}
_FILE: _Kinds = {
    "layer": (int,),
    "file": (str,),
    "bytes": (int,),
    "sha256": (str, NoneType),
}
_CONFIG: _Kinds = {"config": (dict,)}


def _set_index(data: Mapping[str, object]) -> SetIndex:
    fields = _checked(INDEX, data, _HEAD)
    places = [f"{INDEX}, layers[{i}]" for i in range(len(fields["layers"]))]
    layers = [
        _checked(where, layer, {**_FILE, **_CONFIG})
        for where, layer in zip(places, fields["layers"], strict=True)
    ]
    configs = [
        _config(TranscoderConfig, where, layer.pop("config"))
        for where, layer in zip(places, layers, strict=True)
    ]
    return SetIndex(
        model_name=fields["model_name"],
        files=tuple(LayerFile(**layer) for layer in layers),
        configs=tuple(configs),
    )


def _cross_layer_index(data: Mapping[str, object]) -> CrossLayerIndex:
    fields = _checked(INDEX, data, {**_HEAD, **_CONFIG})
    layers = (
        _checked(f"{INDEX}, layers[{i}]", layer, _FILE) for i, layer in enumerate(fields["layers"])
    )
    return CrossLayerIndex(
        model_name=fields["model_name"],
        files=tuple(LayerFile(**layer) for layer in layers),
        config=_config(CrossLayerConfig, INDEX, fields["config"]),
    )


def _checked(where: str, data: object, kinds: _Kinds) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise _wrong(where, got=f"a JSON {type(data).__name__}", expected="a JSON object")
    if set(data) != set(kinds):
        got = f"unknown keys {sorted(set(data) - set(kinds))}, missing keys {sorted(set(kinds) - set(data))}"
        raise _wrong(where, got=got, expected=f"exactly {sorted(kinds)}")
    for name, permitted in kinds.items():
        if type(data[name]) not in permitted:
            expected = " or ".join(kind.__name__ for kind in permitted)
            raise _wrong(f"{where}, {name}", got=repr(data[name]), expected=expected)
    return dict(data)


def _config(kind: type[Config], where: str, data: Mapping[str, object]) -> Config:
    try:
        return kind.from_dict(data)
    except ConfigError as error:
        raise TranscoderFormatError(
            f"{where}, config, {error.where}", got=error.got, expected=error.expected, do=error.do
        ) from error


def _check_constant(data: Mapping[str, object], key: str, expected: str | int) -> None:
    if data.get(key) != expected:
        raise _wrong(
            f"{INDEX}, {key}",
            got=repr(data.get(key)),
            expected=repr(expected),
            do="Load it with the version of tl-transcoders that wrote it.",
        )


def _wrong(
    where: str, *, got: str, expected: str, do: str = "Download or save the set again."
) -> TranscoderFormatError:
    return TranscoderFormatError(where, got=got, expected=expected, do=do)
