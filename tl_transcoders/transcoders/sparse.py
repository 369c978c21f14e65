"""Features as values and indices, for rows in which few of many are active."""

import math
from dataclasses import dataclass
from typing import Self, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.transcoders.kernels import GatherRows, count_set


@final
@dataclass(frozen=True, slots=True)
class SparseFeatures:
    """The active features of every row, in compressed-row form.

    Row r holds `values[offsets[r]:offsets[r + 1]]` at columns `indices[...]`; `shape` is the shape of the
    dense tensor, `(*batch, feature)`.
    """

    values: Float[Tensor, " active"]
    indices: Int[Tensor, " active"]
    offsets: Int[Tensor, " row"]
    shape: tuple[int, ...]

    @classmethod
    def from_rows(
        cls, values: Float[Tensor, "row k"], indices: Int[Tensor, "row k"], shape: tuple[int, ...]
    ) -> Self:
        """From the same number of active features in every row."""
        rows, k = values.shape
        offsets = torch.arange(0, rows * k, k, device=values.device)
        return cls(values.reshape(-1), indices.reshape(-1), offsets, shape)

    @classmethod
    def from_dense(cls, post: Float[Tensor, "*batch feature"]) -> Self:
        """The non-zero entries of a dense tensor; gradients flow to them and to no other."""
        flat = post.reshape(-1, post.shape[-1])
        rows, columns = flat.detach().nonzero(as_tuple=True)
        per_row = torch.bincount(rows, minlength=len(flat))
        return cls(flat[rows, columns], columns, per_row.cumsum(0) - per_row, tuple(post.shape))

    def to_dense(self) -> Float[Tensor, "*batch feature"]:
        """The dense tensor, zeros where nothing is stored."""
        flat = self.values.new_zeros(math.prod(self.shape))
        return flat.scatter_add(0, self.rows() * self.shape[-1] + self.indices, self.values).view(
            self.shape
        )

    def equal(self, dense: Float[Tensor, "*batch feature"]) -> bool:
        """Whether `to_dense()` would be `dense`, to the bit; every feature may be stored once only."""
        dense = dense.detach()
        stored = dense.view(-1)[self.rows() * self.shape[-1] + self.indices]
        return torch.equal(stored, self.values) and count_set(dense) == count_set(stored)

    def rows(self) -> Int[Tensor, " active"]:
        """The row each stored entry belongs to."""
        ends = torch.cat([self.offsets[1:], self.offsets.new_tensor([len(self.values)])])
        rows = torch.arange(len(self.offsets), device=self.offsets.device)
        return rows.repeat_interleave(ends - self.offsets, output_size=len(self.values))

    def column(self, index: int) -> Float[Tensor, "*batch"]:
        """One feature, dense."""
        found = self.indices == index
        flat = self.values.new_zeros(math.prod(self.shape[:-1]))
        return flat.index_put((self.rows()[found],), self.values[found]).view(self.shape[:-1])

    def matmul(self, weight: Float[Tensor, "feature d_out"]) -> Float[Tensor, "*batch d_out"]:
        """`to_dense() @ weight`, reading only the rows of active features."""
        out = GatherRows.apply(self.values, self.indices, self.offsets, weight)
        return out.view(*self.shape[:-1], weight.shape[-1])
