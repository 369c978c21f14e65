"""What a change of every node makes of the residual stream at some rows, carried from layer to layer."""

from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders.circuits.attribution.changes import Changes, FeatureChanges
from tl_transcoders.circuits.attribution.codes import PADDING, Codebook
from tl_transcoders.circuits.attribution.point import Point
from tl_transcoders.circuits.attribution.score import Family


@final
class Senders:
    """Senders and what each has sent so far, to first order, at the rows given.

    `dense[n row d_model]` are those that exist at every row, with one code each; `sparse[row n d_model]` are features,
    with a code at every row (PADDING where a row has fewer). The first `n_dense` and `n_sparse` of them have written.
    """

    def __init__(
        self,
        changes: Changes,
        rows: Int[Tensor, " row"],
        families: frozenset[Family],
        book: Codebook,
    ) -> None:
        self.changes, self.rows, self.families, self.book = changes, rows, families, book
        layers = len(changes.heads)
        width, n_heads = changes.embed.shape[2], changes.heads[0].shape[2]
        places = changes.embed.shape[0] * changes.embed.shape[1]
        self.features = {
            layer: _padded(some, rows, places)
            for layer, some in changes.features.items()
            if self.sends("feature", layer)
        }
        n_dense = 1 + layers * n_heads + len(changes.mlps) + len(changes.errors)
        n_sparse = sum(index.shape[1] for index, _ in self.features.values())
        self._dense = changes.embed.new_zeros(n_dense, len(rows), width)
        self._sparse = changes.embed.new_zeros(len(rows), n_sparse, width)
        self._dense_codes = rows.new_full((n_dense,), PADDING)
        self._sparse_codes = rows.new_full((len(rows), n_sparse), PADDING)
        self.n_dense = self.n_sparse = 0
        self.slices: dict[int, slice] = {}
        if self.sends("embed", 0):
            self.write("embed", 0, self.of(changes.embed)[None])

    def sends(self, kind: str, layer: int) -> bool:
        """Whether a family sends at all."""
        return (kind, layer) in self.families

    def of(self, value: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "row ..."]:
        """A value at these rows."""
        return value.flatten(0, 1)[self.rows]

    @property
    def dense(self) -> Float[Tensor, "n row d_model"]:
        """What dense senders have sent."""
        return self._dense[: self.n_dense]

    @property
    def dense_codes(self) -> Int[Tensor, " n"]:
        """Their codes."""
        return self._dense_codes[: self.n_dense]

    @property
    def sparse(self) -> Float[Tensor, "row n d_model"]:
        """What features have sent."""
        return self._sparse[:, : self.n_sparse]

    @property
    def sparse_codes(self) -> Int[Tensor, "row n"]:
        """Their codes."""
        return self._sparse_codes[:, : self.n_sparse]

    def write(self, kind: str, layer: int, sent: Float[Tensor, "n row d_model"]) -> None:
        """Senders of a family write."""
        end = self.n_dense + len(sent)
        self._dense[self.n_dense : end] = sent
        self._dense_codes[self.n_dense : end] = self.book.family(
            kind, layer, len(sent), sent.device
        )
        self.n_dense = end

    def write_features(self, layer: int, sent: Float[Tensor, "row n d_model"]) -> None:
        """The features of a layer write: for the first time, or (a cross-layer transcoder's) once more."""
        if layer in self.slices:
            self._sparse[:, self.slices[layer]] += sent
            return
        where = slice(self.n_sparse, self.n_sparse + sent.shape[1])
        index = self.features[layer][0]
        self._sparse[:, where] = sent
        self._sparse_codes[:, where] = torch.where(
            index >= 0, index + self.book.first("feature", layer), PADDING
        )
        self.slices[layer], self.n_sparse = where, where.stop

    def add(self, dense: Tensor, sparse: Tensor) -> None:
        """Everything sent so far goes on with this much more."""
        self._dense[: self.n_dense] += dense
        self._sparse[:, : self.n_sparse] += sparse

    def cut(self, rows: Bool[Tensor, " row"]) -> None:
        """Nothing sent so far goes on at these rows."""
        self._dense[: self.n_dense] *= ~rows[:, None]
        self._sparse[:, : self.n_sparse] *= ~rows[:, None, None]


def _padded(
    some: FeatureChanges, rows: Int[Tensor, " row"], places: int
) -> tuple[Int[Tensor, "row n"], Float[Tensor, "row n"]]:
    """Index and change of the features at every row, −1 and 0 where a row has fewer than others."""
    return padded(some.row, some.index, some.delta, rows, places)


def padded(
    row: Int[Tensor, " n"],
    index: Int[Tensor, " n"],
    value: Float[Tensor, " n"],
    rows: Int[Tensor, " row"],
    places: int,
) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
    """Entries sorted by row as a table of the rows wanted, −1 and 0 where a row has fewer than others."""
    local = rows.new_full((places,), -1)
    local[rows] = torch.arange(len(rows), device=rows.device)
    kept = local[row] >= 0
    at, index, value = local[row[kept]], index[kept], value[kept]
    order = at.argsort(stable=True)
    at, index, value = at[order], index[order], value[order]
    counts = torch.bincount(at, minlength=len(rows))
    start = counts.cumsum(0) - counts
    column = torch.arange(len(at), device=at.device) - start[at]
    width = int(counts.max()) if len(counts) else 0
    indices = index.new_full((len(rows), width), -1)
    values = value.new_zeros(len(rows), width)
    indices[at, column], values[at, column] = index, value
    return indices, values


def active(
    point: Point, layer: int, rows: Int[Tensor, " row"]
) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
    """Index and activation of the active features of a layer at every row."""
    features = point.values["features", layer]
    kept = features.values != 0
    places = len(features.offsets)
    return padded(
        features.rows()[kept], features.indices[kept], features.values[kept], rows, places
    )
