"""Which files hold which layer, where only their names say so."""

from collections.abc import Callable, Mapping, Set
from typing import TypeVar

from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource

T = TypeVar("T")


def files_by_layer(
    source: AbstractSource,
    request: Request,
    by_layer: Callable[[Set[str]], Mapping[int, T]],
    *,
    suffices: Callable[[T], bool] = lambda _: True,
) -> Mapping[int, T]:
    """What `by_layer` makes of the source's file names.

    The names on disk are enough where they hold the layers asked for, and each of these `suffices`; else an
    earlier download of some of the files would decide what there is, so the hub's list is asked.
    """
    found: Mapping[int, T] = {}
    for files in source.listings():
        found = by_layer(files)
        asked = request.layers or frozenset()
        if asked and asked <= found.keys() and all(suffices(found[layer]) for layer in asked):
            break
    return found
