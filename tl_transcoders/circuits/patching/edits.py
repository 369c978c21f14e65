"""New values for parts of a pass, put in by visiting it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.splice.trace.forward import FeatureChange, Spot
from tl_transcoders.splice.trace.swap import dense
from tl_transcoders.transcoders import SparseFeatures


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What one spot of a layer is set to, at some positions: whole, or some of its heads or features.

    `value` and `base` (its value in the base run) are `[row pos ...]` at `positions`, with the `n` heads or features
    of `channels` in the third dimension where there are any.
    """

    spot: Spot
    layer: int
    positions: Int[Tensor, " pos"]
    value: Float[Tensor, "row pos *rest"]
    base: Float[Tensor, "row pos *rest"]
    channels: Int[Tensor, "row n"] | None = None

    def put_into(self, x: Tensor, first: int) -> Tensor:
        """A copy of x, whose first position is `first`, with the new values in it."""
        x, at = x.clone(), self.positions - first
        value = self.value.to(x.dtype)
        if self.channels is None:
            x[:, at] = value
        else:
            rows = torch.arange(len(x), device=x.device)[:, None, None]
            x[rows, at[None, :, None], self.channels[:, None, :]] = value
        return x

    def change(self, first: int, length: int) -> FeatureChange:
        """By how much it changes features that are frozen."""
        assert self.channels is not None
        difference = self.value - self.base
        delta = difference.new_zeros(len(difference), length - first, self.channels.shape[1])
        delta[:, self.positions - first] = difference
        return FeatureChange(self.channels, delta)


@final
class Edits:
    """A visit of a pass over positions `first` to `length` that puts edits in."""

    def __init__(self, edits: Sequence[Edit], *, first: int, length: int) -> None:
        self.all, self.first, self.length = tuple(edits), first, length
        self._by_spot: dict[tuple[Spot, int], list[Edit]] = {}
        for edit in self.all:
            self._by_spot.setdefault((edit.spot, edit.layer), []).append(edit)

    def __call__(self, spot: Spot, layer: int, value: Any) -> Any:
        """The value, or the edited one."""
        edits = self._by_spot.get((spot, layer))
        if not edits:
            return value
        if isinstance(value, FeatureChange):
            changes = [edit.change(self.first, self.length) for edit in edits]
            return FeatureChange(
                torch.cat([change.index for change in changes], dim=1),
                torch.cat([change.delta for change in changes], dim=2),
            )
        if isinstance(value, SparseFeatures):
            value = dense(value)
        for edit in edits:
            value = edit.put_into(value, self.first)
        return value
