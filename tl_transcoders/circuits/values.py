"""What nodes are: in a run, or on average over a data set."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.checks import check_unpadded, tokens_of
from tl_transcoders.circuits.edits import Edit, Mean, Patch
from tl_transcoders.circuits.nodes import (
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
)
from tl_transcoders.errors import ShapeError
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.forward import Spot
from tl_transcoders.splice.trace.run import Run, capture
from tl_transcoders.transcoders import SparseFeatures

Place = tuple[Spot, int]
Values = Mapping[Place, Tensor | SparseFeatures]
"""What is written at some places, `[prompt pos ...]`."""

AT_ONCE: Final = 8
"""Prompts of a data set that run together."""

Key = TypeVar("Key")


def place_of(node: Node) -> tuple[Place, int | None]:
    """Where a node writes, and as which of the heads or features there."""
    match node:
        case Embed():
            return ("embed", 0), None
        case Head(layer, head):
            return ("z", layer), head
        case Feature(layer, index):
            return ("features", layer), index
        case Error(layer):
            return ("error", layer), None
        case Mlp(layer):
            return ("mlp_out", layer), None
        case KeyValue() | Logits():
            raise AssertionError("refused by check_sender")
        case _:
            assert_never(node)


def values_of(run: Run) -> Values:
    """What was written at every place of a run."""
    return {**run.values, ("embed", 0): run.embed}


def node_value(node: Node, values: Values) -> Float[Tensor, "prompt pos *d"]:
    """What a node is at all positions: `[prompt pos]` for a feature, else `[prompt pos d]`."""
    place, channel = place_of(node)
    value = values[place]
    if isinstance(value, SparseFeatures):
        assert channel is not None
        return value.column(channel)
    return value if channel is None else value[:, :, channel]


def by_donor(edits: Mapping[Key, Edit]) -> list[tuple[Patch | Mean, list[Key]]]:
    """What takes its value from other prompts, those together that take it from the same ones in the same way."""
    groups: dict[tuple[int, bool | None], tuple[Patch | Mean, list[Key]]] = {}
    for key, edit in edits.items():
        match edit:
            case Patch(source):
                groups.setdefault((id(source), None), (edit, []))[1].append(key)
            case Mean(tokens, per_position=per_position):
                groups.setdefault((id(tokens), per_position), (edit, []))[1].append(key)
            case _:
                pass
    return list(groups.values())


def mean_values(
    spliced: Spliced, mean: Mean, places: Iterable[Place], length: int
) -> dict[Place, Float[Tensor, "1 pos *d"]]:
    """The mean at some places for each of `length` positions, the user's hooks asleep."""
    wanted = list(places)

    def read(tokens: Int[Tensor, "batch pos"]) -> dict[Place, Tensor]:
        values = values_of(capture(spliced, tokens))
        return {place: _dense(values[place]) for place in wanted}

    found = averaged(spliced, mean, read, lambda place: place[0] in ("features", "error"))
    return {place: value.expand(1, length, *value.shape[2:]) for place, value in found.items()}


def averaged(
    spliced: Spliced,
    mean: Mean,
    read: Callable[[Int[Tensor, "batch pos"]], Mapping[Key, Tensor]],
    coded: Callable[[Key], bool],
) -> dict[Key, Float[Tensor, "1 pos *d"]]:
    """The mean of what is read of a data set, at each position or of all of them.

    What is `coded` by a transcoder is not there at positions that the splice excludes.
    """
    tokens = tokens_of(spliced, mean.tokens, "Mean")
    check_unpadded(spliced, tokens, "Mean")
    totals: dict[Key, Tensor] = {}
    counts: dict[Key, Tensor] = {}
    for rows in tokens.split(len(tokens) if spliced.holds_prompts else AT_ONCE):
        excluded = spliced.excluded(rows)
        for key, value in read(rows).items():
            there = torch.ones_like(rows, dtype=value.dtype)
            if excluded is not None and coded(key):
                there = (~excluded).to(value.dtype)
            weight = there.view(*rows.shape, *[1] * (value.ndim - 2))
            over = (0,) if mean.per_position else (0, 1)
            total, count = (t.sum(over, keepdim=True) for t in (value * weight, weight))
            totals[key] = totals[key] + total if key in totals else total
            counts[key] = counts[key] + count if key in counts else count
    return {key: total / counts[key].clamp(min=1) for key, total in totals.items()}


def check_fits(
    edit: Patch | Mean, given: Int[Tensor, "n given"], tokens: Int[Tensor, "batch pos"]
) -> None:
    """Raise ShapeError unless the prompts a value comes from match those it goes to."""
    alone = isinstance(edit, Patch)
    if not alone and not edit.per_position:
        return
    if given.shape[1] == tokens.shape[1] and (not alone or len(given) in (1, len(tokens))):
        return
    raise ShapeError(
        type(edit).__name__,
        got=f"source tokens {tuple(given.shape)} for prompts {tuple(tokens.shape)}",
        expected=f"prompts of the same length{', one for all or one for each' if alone else ''}",
        do="Make the base and source prompts equally long."
        if alone
        else "Make them equally long; Mean(tokens, per_position=False) takes any length.",
    )


def _dense(value: Tensor | SparseFeatures) -> Tensor:
    return value.to_dense() if isinstance(value, SparseFeatures) else value
