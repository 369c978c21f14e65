"""Repositories that hold many sets, told apart by kind, width and L0."""

from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass
from typing import final

from tl_transcoders.errors import ConfigError
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource


@final
@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """One set of a repository."""

    kind: str
    width: str
    l0: str


Catalogue = Mapping[Variant, Mapping[int, str]]
"""The weight file of every layer, by set."""


def choose_variant(
    source: AbstractSource,
    catalogue_of: Callable[[Set[str]], Catalogue],
    request: Request,
    *,
    default: str,
) -> tuple[Variant, Mapping[int, str]]:
    """The one set that `request` names, and its files.

    A request that names everything is answered from what is on disk, without asking the hub.

    **Arguments:** `catalogue_of`, the sets among file names; `default`, the kind taken where none is named
    and all of its layers are asked for.

    **Raises:** ConfigError with the choices where no set fits, or more than one.
    """
    catalogue: Catalogue = {}
    for files in source.listings():
        catalogue = catalogue_of(files)
        if _is_settled(catalogue, request):
            break
    found = _fitting(catalogue, request)
    found = found if len(found) < 2 else _preferred(catalogue, found, request, default)
    if len(found) != 1:
        raise _ambiguous(str(source), request, found or sorted(catalogue))
    return found[0], catalogue[found[0]]


def _fitting(catalogue: Catalogue, request: Request) -> list[Variant]:
    """The sets named, of those only the ones that have the layers, unless there is just one."""
    named = [variant for variant in sorted(catalogue) if _is_named(variant, request)]
    layers = request.layers or set()
    return named if len(named) == 1 else [v for v in named if layers <= set(catalogue[v])]


def _is_named(variant: Variant, request: Request) -> bool:
    return (
        request.kind in (None, variant.kind)
        and request.width in (None, variant.width)
        and request.l0 in (None, variant.l0)
    )


def _preferred(
    catalogue: Catalogue, found: list[Variant], request: Request, default: str
) -> list[Variant]:
    if request.kind is not None:
        return found
    whole = [
        variant
        for variant in found
        if variant.kind == default and request.layers in (None, set(catalogue[variant]))
    ]
    return whole or found


def _is_settled(catalogue: Catalogue, request: Request) -> bool:
    """Whether everything is named and there, so that more files would change nothing."""
    if request.layers is None or None in (request.kind, request.width, request.l0):
        return False
    return any(request.layers <= set(catalogue[v]) for v in catalogue if _is_named(v, request))


def _ambiguous(where: str, request: Request, choices: Collection[Variant]) -> ConfigError:
    asked = {
        "layers": None if request.layers is None else sorted(request.layers),
        "kind": request.kind,
        "width": request.width,
        "l0": request.l0,
    }
    given = [f"{name}={value!r}" for name, value in asked.items() if value is not None]
    return ConfigError(
        where,
        got=f"a request for {', '.join(given) or 'all layers'}",
        expected=f"one of the sets it holds: {_listed(choices)}",
        do="Name kind=, width= and l0=, and layers that this set has.",
    )


def _listed(choices: Collection[Variant]) -> str:
    names = {
        "kind": sorted({variant.kind for variant in choices}),
        "width": sorted({variant.width for variant in choices}),
        "l0": sorted({variant.l0 for variant in choices}),
    }
    return "; ".join(f"{name}: {', '.join(values)}" for name, values in names.items())
