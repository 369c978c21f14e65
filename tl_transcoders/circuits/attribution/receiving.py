"""The gradient of what each receiver reads, at some rows."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.attribution.codes import PADDING, Codebook
from tl_transcoders.circuits.attribution.point import Point
from tl_transcoders.circuits.attribution.score import feature_gradients
from tl_transcoders.circuits.attribution.sending import active
from tl_transcoders.circuits.nodes import Reader
from tl_transcoders.splice.trace.swap import Swap


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """Receivers that every row has: a code each, and the gradient of what they read."""

    codes: Int[Tensor, " m"]
    gradient: Float[Tensor, "m row d"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse:
    """Receivers of which every row has its own, PADDING where it has fewer than others."""

    codes: Int[Tensor, "row m"]
    gradient: Float[Tensor, "row m d"]


Receivers = Dense | Sparse


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Receivers of a point at some rows (prompt · positions + position)."""

    point: Point
    rows: Int[Tensor, " row"]
    excluded: Tensor | None
    live_errors: bool
    book: Codebook

    def of(self, value: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "row ..."]:
        """A value at these rows."""
        return value.flatten(0, 1)[self.rows]

    def projection(self, layer: int, part: Reader) -> Dense:
        """Queries, keys or values of a layer's heads."""
        block = self.point.model.anatomy.blocks[layer]
        attention = block.attention
        weight = {"q": attention.W_Q, "k": attention.W_K, "v": attention.W_V}[part]
        if part != "q":
            weight = weight.repeat_interleave(attention.heads_per_group, dim=0)
        gradient = self.of(self.point.gradients[part, layer]).transpose(0, 1)
        x = self.of(self.point.values["resid_pre", layer])
        return Dense(
            codes=self._codes(part, layer, attention.n_heads),
            gradient=block.ln1.pull(x, gradient @ weight.transpose(1, 2)),
        )

    def features(self, layer: int) -> Sparse:
        """The active features of a layer; one that is not active has no gradient."""
        swap = self.point.model.coders[layer]
        index, _ = active(self.point, layer, self.rows)
        row, column = (index >= 0).nonzero(as_tuple=True)
        found = index[row, column]
        gradient = feature_gradients(self.point, layer, self.rows[row], found)
        encoders = swap.encoder_rows(found)
        vectors = encoders.new_zeros(*index.shape, encoders.shape[1])
        vectors[row, column] = gradient[:, None].to(encoders.dtype) * encoders
        return Sparse(
            codes=torch.where(index >= 0, index + self.book.first("feature", layer), PADDING),
            gradient=self._pulled(swap, layer, vectors),
        )

    def mlp(self, layer: int) -> Dense:
        """The whole MLP of a layer that is not spliced."""
        gradient = self.of(self.point.gradients["mlp_in", layer])[None]
        return Dense(codes=self._codes("mlp", layer), gradient=gradient)

    def error(self, layer: int, features: Sparse) -> Dense | None:
        """What else answers to what the features read: a live error, or the MLP where it was left alone."""
        swap = self.point.model.coders[layer]
        left = None if self.excluded is None else self.of(self.excluded)
        if not self.live_errors and (left is None or not left.any()):
            return None
        spot = "mlp_in" if swap.site is None else "sae_in"
        rest = self.of(self.point.gradients[spot, layer]) - features.gradient.sum(1)
        if swap.W_skip is not None:
            skipped = self.skip_gradient(layer)
            rest = rest - (skipped if left is None else skipped * ~left[:, None])
        if swap.site is not None and left is not None:
            rest = rest * ~left[:, None]
        return Dense(codes=self._codes("error", layer), gradient=rest[None])

    def skip_gradient(self, layer: int) -> Float[Tensor, "row d"]:
        """The gradient of what a transcoder reads through its skip connection alone."""
        swap = self.point.model.swaps[layer]
        assert swap.W_skip is not None
        written = self.of(self.point.written(layer)).to(swap.W_skip.dtype)
        return self._pulled(swap, layer, (written @ swap.W_skip.T)[:, None])[:, 0]

    def logits(self) -> Dense:
        """The last residual stream."""
        layer = self.point.model.n_layers
        gradient = self.of(self.point.gradients["logits_in", layer])[None]
        return Dense(codes=self._codes("logits", 0), gradient=gradient)

    def _codes(self, kind: str, layer: int, n: int = 1) -> Tensor:
        return self.book.family(kind, layer, n, self.rows.device)

    def _pulled(self, swap: Swap, layer: int, gradient: Tensor) -> Tensor:
        if swap.site is not None:
            return gradient
        block = self.point.model.anatomy.blocks[layer]
        return swap.pull(block, self.of(self.point.values["mlp_in", layer])[:, None], gradient)
