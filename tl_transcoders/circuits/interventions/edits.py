"""What is done to a node: set, add, scale, ablate or patch."""

from dataclasses import KW_ONLY, dataclass
from typing import final

from torch import Tensor

Value = float | Tensor
Tokens = str | Tensor


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


Edit = Set | Add | Scale | Ablate | Patch
