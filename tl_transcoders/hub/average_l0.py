"""The choice between sets of one layer that differ in width and in average L0."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import final

from tl_transcoders.errors import ConfigError
from tl_transcoders.hub.request import Request

_L0 = re.compile(r"(~?)(\d{1,9})")


@final
@dataclass(frozen=True, slots=True)
class Variant:
    """One of them: its width as it is named, its average L0, and its file."""

    width: str
    l0: int
    file: str


def choose_variant(variants: Collection[Variant], request: Request, where: str) -> str:
    """The file of the one variant with `request.width` and with `request.l0`, or for `"~n"` the nearest to n.

    What is not asked for must be the only one there is.

    **Raises:** ConfigError, listing what there is, where not exactly one fits.
    """
    wide = [v for v in variants if request.width in (None, v.width)]
    fitting = wide if request.l0 is None else _with_l0(wide, request.l0)
    if len(fitting) == 1:
        return fitting[0].file
    raise ConfigError(
        where,
        got=f"width={request.width!r}, l0={request.l0!r}, which fits {len(fitting)} of its sets",
        expected=f"one of {_listed(variants)}",
        do='Pass width= and l0=; l0="~100" takes the nearest to 100 in each layer.',
    )


def is_settled(variants: Collection[Variant], request: Request) -> bool:
    """Whether one of them is exactly what `request` names, so that others would change nothing."""
    return any((v.width, str(v.l0)) == (request.width, request.l0) for v in variants)


def _with_l0(variants: Collection[Variant], l0: str) -> list[Variant]:
    asked = _L0.fullmatch(l0)
    if asked is None or not variants:
        return []
    nearest, wanted = asked[1] == "~", int(asked[2])
    distance = min(abs(v.l0 - wanted) for v in variants) if nearest else 0
    return [v for v in variants if abs(v.l0 - wanted) == distance]


def _listed(variants: Collection[Variant]) -> str:
    by_width: dict[str, list[int]] = {}
    for variant in variants:
        by_width.setdefault(variant.width, []).append(variant.l0)
    sets = (f"width={width!r} with l0 {sorted(l0s)}" for width, l0s in sorted(by_width.items()))
    return "; ".join(sets)
