"""Folders that say in their names which layer they serve, or at least may."""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from tl_transcoders.errors import ConfigError
from tl_transcoders.hub.folders import folders_with, listed
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource


def folders_asked_for(
    source: AbstractSource,
    request: Request,
    *files: str,
    layer: re.Pattern[str],
    default: Callable[[str], bool] = lambda _: True,
) -> list[str]:
    """Folders with these files that `request.kind`, a name or a pattern, and the layers do not exclude.

    Folders on disk suffice where the request names kind and layers and all are there; else the hub's list
    is asked, because an earlier download holds only some.

    **Arguments:** `layer`, whose first group finds the layer in a folder's name; `default`, which folders
    are meant where no kind is named.

    **Raises:** ConfigError where none is left.
    """
    folders: list[str] = []
    found: tuple[str, ...] = ()
    for names in source.listings():
        found = folders_with(names, *files)
        folders = [
            f for f in found if _is_named(f, request, default) and _serves(f, request, layer)
        ]
        layers = {int(match[1]) for match in map(layer.search, folders) if match}
        if request.kind is not None and request.layers is not None and request.layers <= layers:
            break
    if not folders:
        asked = [] if request.kind is None else [f"kind={request.kind!r}"]
        asked += [] if request.layers is None else [f"layers={sorted(request.layers)}"]
        raise ConfigError(
            str(source),
            got=", ".join(asked) or "no choice",
            expected=f"layers of, or a pattern that matches, some of {listed(found)}",
            do="Choose folders by name, and layers they serve.",
        )
    return folders


def _is_named(folder: str, request: Request, default: Callable[[str], bool]) -> bool:
    if request.kind is None:
        return default(folder)
    return fnmatchcase(folder.rstrip("/"), request.kind)


def _serves(folder: str, request: Request, layer: re.Pattern[str]) -> bool:
    match = layer.search(folder)
    return match is None or request.layers is None or int(match[1]) in request.layers
