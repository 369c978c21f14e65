"""What is done to a node: set, add, scale, ablate, patch, or replace by a mean."""

import sys
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, assert_never, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.nodes import Node, write_node
from tl_transcoders.errors import ConfigError, ShapeError

Value = float | Tensor
Tokens = str | Tensor
ENDLESS: Final = sys.maxsize


@final
@dataclass(frozen=True, slots=True)
class Set:
    """The node has this value.

    `value` is a number, for heads, errors and MLPs also a vector (`[d_head]`, `[d_out]`, `[d_model]`); with one more
    axis in front, one for every strength. `at` narrows a node that names no position to a slice of them.
    """

    value: Value
    _: KW_ONLY
    at: slice | None = None


@final
@dataclass(frozen=True, slots=True)
class Add:
    """The node has this much more; `value` and `at` as in `Set`."""

    value: Value
    _: KW_ONLY
    at: slice | None = None


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """The node has `factor` times its value; a vector of factors stands for as many strengths."""

    factor: Value
    _: KW_ONLY
    at: slice | None = None


@final
@dataclass(frozen=True, slots=True)
class Ablate:
    """The node is zero."""

    _: KW_ONLY
    at: slice | None = None


@final
@dataclass(frozen=True, slots=True)
class Patch:
    """The node has the value it has, at the same position, in a run on `source`: one prompt, or one for each."""

    source: Tokens
    _: KW_ONLY
    at: slice | None = None


@final
@dataclass(frozen=True, slots=True)
class Mean:
    """The node has its mean over the prompts of a data set: at each position that position's, or one for all.

    `tokens` are prompts of one length `[prompt pos]`; with `per_position`, of that of the prompts it is used on.
    Positions that the splice excludes do not count for features and errors.
    """

    tokens: Tokens
    _: KW_ONLY
    per_position: bool = True
    at: slice | None = None


Edit = Set | Add | Scale | Ablate | Patch | Mean


def new_value(
    edit: Edit, old: Float[Tensor, "row pos *d"], theirs: Float[Tensor, "n pos *d"] | None
) -> Float[Tensor, "row pos *d"]:
    """What an edit makes of a node's values; `theirs` are those a `Patch` or `Mean` takes, of one prompt or of each."""
    match edit:
        case Set(value):
            return _per_row(value, old).expand_as(old)
        case Add(value):
            return old + _per_row(value, old)
        case Scale(factor):
            return old * _per_row(factor, old, vector=False)
        case Ablate():
            return torch.zeros_like(old)
        case Patch() | Mean():
            assert theirs is not None
            return theirs.to(old).repeat(len(old) // len(theirs), *[1] * (old.ndim - 1))
        case _:
            assert_never(edit)


def count_strengths(edit: Edit, *, vector: bool) -> int | None:
    """How many strengths an edit holds, None for one value only; `vector` says whether a node's value is one."""
    match edit:
        case Set(value) | Add(value):
            axes = 2 if vector else 1
        case Scale(value):
            axes = 1
        case _:
            return None
    return len(value) if isinstance(value, Tensor) and value.ndim == axes else None


def check_edit(node: Node, edit: Any, width: int | None) -> None:
    """Raise ConfigError unless it is an edit, ShapeError unless its value fits a node of this width (None: a number)."""
    match edit:
        case Set(value) | Add(value):
            fitting = [(), ("strength",)] if width is None else [(), (width,), ("strength", width)]
        case Scale(value):
            fitting = [(), ("strength",)]
        case Ablate() | Patch() | Mean():
            return
        case _:
            raise ConfigError(
                write_node(node),
                got=repr(edit),
                expected="Set, Add, Scale, Ablate, Patch or Mean",
                do="Write {tlt.Feature(5, 1207): tlt.Scale(0.0)}.",
            )
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    if any(_fits(shape, wanted) for wanted in fitting):
        return
    raise ShapeError(
        f"{write_node(node)}, {type(edit).__name__}",
        got=f"shape {shape}",
        expected=" or ".join(f"({', '.join(map(str, wanted))})" for wanted in fitting),
        do="Give a number, or a tensor of one of these shapes.",
    )


def edited_positions(node: Node, edit: Edit, length: int | None) -> range:
    """The positions an edit is meant for; `length` is that of the prompts, None while a sequence grows.

    **Raises:** ConfigError for a position the prompts do not have, or one counted from an end that is not known.
    """
    where = write_node(node)
    if node.pos is not None and edit.at is not None:
        raise ConfigError(
            where,
            got=f"a position and at={edit.at}",
            expected="one of them",
            do="Leave the position out of the node, or at= out of the edit.",
        )
    wanted = slice(None) if edit.at is None else edit.at
    if node.pos is not None:
        wanted = slice(node.pos, node.pos + 1 or None)
    if length is None:
        return _from_start(where, wanted)
    found = range(length)[wanted]
    if not found or (node.pos is not None and not -length <= node.pos < length):
        at = f"position {node.pos}" if node.pos is not None else f"positions {wanted}"
        raise ConfigError(
            where,
            got=f"{at} of prompts of {length} positions",
            expected=f"positions from 0 to {length - 1}, or from -{length} to -1",
            do="Correct the position.",
        )
    return found


def _from_start(where: str, wanted: slice) -> range:
    parts = (wanted.start or 0, ENDLESS if wanted.stop is None else wanted.stop, wanted.step or 1)
    if min(parts) < 0 or not range(*parts):
        raise ConfigError(
            where,
            got=f"positions {wanted} of a sequence that may still grow",
            expected="positions counted from its start",
            do="Count from the start; slice(n, None) is every position from n on.",
        )
    return range(*parts)


def _fits(shape: tuple[int, ...], wanted: tuple[Any, ...]) -> bool:
    pairs = zip(shape, wanted, strict=False)
    same = all(w in ("strength", s) for s, w in pairs)
    return same and len(shape) == len(wanted) and 0 not in shape


def _per_row(value: Value, old: Tensor, *, vector: bool = True) -> Tensor:
    """A number, a vector `[d]`, or one of them for every strength, shaped to broadcast over `old [row pos *d]`."""
    new = torch.as_tensor(value).to(old)
    if new.ndim == 0 or (vector and old.ndim > 2 and new.ndim == 1):
        return new
    new = new.repeat_interleave(len(old) // len(new), dim=0)
    return new.view(len(new), *[1] * (old.ndim - new.ndim), *new.shape[1:])
