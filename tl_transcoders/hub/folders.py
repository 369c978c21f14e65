"""Repositories that hold one folder for every transcoder: which folder serves which layer."""

from collections.abc import Collection, Mapping, Set
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from tl_transcoders.errors import ConfigError
from tl_transcoders.hub.request import Request


def folders_with(files: Set[str], *names: str) -> tuple[str, ...]:
    """The folders, as prefixes that end in `/` or are empty, that hold all of these names."""
    first, *others = names
    folders = (name.removesuffix(first) for name in files if PurePosixPath(name).name == first)
    return tuple(sorted(f for f in folders if all(f + other in files for other in others)))


def folders_named(folders: Collection[str], request: Request, where: str) -> tuple[str, ...]:
    """The folders that `request.kind`, a pattern such as `"*/seed0"`, chooses by name; raises ConfigError."""
    refuse_sizes(request, where)
    kind = request.kind
    named = [f for f in folders if kind is None or fnmatchcase(f.rstrip("/"), kind)]
    if not named:
        raise ConfigError(
            where,
            got=f"kind={kind!r}",
            expected=f"a pattern that matches some of {listed(folders)}",
            do="Choose folders by name.",
        )
    return tuple(named)


def folder_of_each_layer(layers: Mapping[str, int], request: Request, where: str) -> dict[int, str]:
    """The folder of every layer asked for, ascending, of `layers`, the layer of each folder.

    **Raises:** ConfigError where several folders serve one layer; TranscoderFormatError where none does.
    """
    chosen = request.choose(set(layers.values()), where)
    return {layer: _only(layer, layers, where) for layer in chosen}


def _only(layer: int, layers: Mapping[str, int], where: str) -> str:
    folders = [folder for folder, found in layers.items() if found == layer]
    if len(folders) > 1:
        raise ConfigError(
            f"{where}, layer {layer}",
            got=f"{len(folders)} folders that serve this layer",
            expected=f"one of {listed(folders)}",
            do="Choose with kind=, the folder's name or a pattern such as '*/seed0'.",
        )
    return folders[0]


def listed(folders: Collection[str]) -> str:
    """Up to eight of their names, for a message."""
    names = sorted(folder.rstrip("/") for folder in folders)
    return ", ".join(map(repr, names[:8])) + (", …" if len(names) > 8 else "")


def refuse_sizes(request: Request, where: str) -> None:
    """Raise ConfigError where a width or an L0 is chosen, because only folders' names tell sets apart."""
    sizes = {"width": request.width, "l0": request.l0}
    given = [f"{name}={value!r}" for name, value in sizes.items() if value is not None]
    if given:
        raise ConfigError(
            where,
            got=", ".join(given),
            expected="a choice by kind= only, because folders are chosen by their names",
            do="Leave these arguments out.",
        )
