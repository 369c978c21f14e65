"""Which nodes a path may pass, or is asked to have passed."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, Mlp
from tl_transcoders.circuits.weights.reading import INDEX, KIND, KINDS, LAYER, POS, PathNode
from tl_transcoders.circuits.weights.via import Skip
from tl_transcoders.errors import ConfigError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Nodes of these kinds, layers, positions and indices (of features, or heads); what is not given does not matter.

    Kinds are `"embed" "head" "feature" "skip" "error" "mlp"`. `Match(kind="feature", layer=range(5, 9))` is any feature
    of layers 5 to 8, `Match(pos=range(1, 12))` anything but at the first of twelve positions.

    **Raises:** ConfigError for a kind there is none of, or a negative number.
    """

    kind: str | Collection[str] | None = None
    layer: int | Collection[int] | None = None
    pos: int | Collection[int] | None = None
    index: int | Collection[int] | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(_several(self.kind)) - set(KINDS))
        if unknown:
            raise ConfigError(
                "Match, kind",
                got=", ".join(map(repr, unknown)),
                expected=f"any of {', '.join(KINDS)}",
                do="Correct it.",
            )
        for name in ("layer", "pos", "index"):
            numbers = _several(getattr(self, name))
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise ConfigError(
                    f"Match, {name}",
                    got=repr(getattr(self, name)),
                    expected="whole numbers from 0, counted from the front",
                    do="Correct it.",
                )

    def mask(self, rows: Int[Tensor, "n 4"]) -> Bool[Tensor, " n"]:
        """Which rows of kind, layer, position and index match."""
        found = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        kinds = None if self.kind is None else [KINDS.index(kind) for kind in _several(self.kind)]
        wanted = {KIND: kinds, LAYER: self.layer, POS: self.pos, INDEX: self.index}
        for column, values in wanted.items():
            if values is not None:
                allowed = torch.tensor(_several(values), dtype=torch.long, device=rows.device)
                found &= torch.isin(rows[:, column], allowed)
        return found

    def __contains__(self, node: PathNode) -> bool:
        row = _row(node)
        return row is not None and bool(self.mask(torch.tensor([row]))[0])


def _several(value: object) -> list:
    if value is None:
        return []
    return [value] if isinstance(value, str | int) else list(value)  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues, reportUnknownVariableType]


def _row(node: PathNode) -> tuple[int, int, int, int] | None:
    match node:
        case Embed(pos):
            found = "embed", 0, pos, 0
        case Head(layer, head, _, pos):
            found = "head", layer, pos, head
        case Feature(layer, index, pos):
            found = "feature", layer, pos, index
        case Skip(layer, pos):
            found = "skip", layer, pos, 0
        case Error(layer, pos):
            found = "error", layer, pos, 0
        case Mlp(layer, pos):
            found = "mlp", layer, pos, 0
        case _:
            return None  # an outcome, which begins a path
    kind, layer, pos, index = found
    return KINDS.index(kind), layer, -1 if pos is None else pos, index
