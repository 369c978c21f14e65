"""Scores of edges, summed as they come, however many there are."""

from functools import reduce
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.attribution.codes import PADDING
from tl_transcoders.circuits.attribution.receiving import Dense
from tl_transcoders.circuits.attribution.walk import Meeting

UNSORTED: Final = 16_000_000
"""How many scores may wait before they are summed by edge."""


@final
class Ledger:
    """Sums of scores by edge between nodes with codes below `total`; into `receivers` only, where these are given."""

    def __init__(self, total: int, receivers: Int[Tensor, " wanted"] | None = None) -> None:
        self.total, self.receivers = total, receivers
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._n_waiting = 0

    def enter(self, met: Meeting, weight: float) -> None:
        """Every sender's change times every receiver's gradient, summed over rows."""
        found = met.receivers
        if isinstance(found, Dense):
            codes, gradient = self._wanted(found)
            of_dense, of_sparse, gradient = _in_one_dtype(met.dense, met.sparse, gradient)
            dense = of_dense.flatten(1) @ gradient.flatten(1).T
            self._add(met.dense_codes[:, None], codes, dense * weight)
            if met.sparse.shape[1]:
                sparse = of_sparse @ gradient.permute(1, 2, 0)
                self._add(met.sparse_codes[..., None], codes, sparse * weight)
            return
        codes = self._kept(found.codes)[:, None]
        of_dense, of_sparse, gradient = _in_one_dtype(met.dense, met.sparse, found.gradient)
        dense = torch.einsum("nrd,rmd->rnm", of_dense, gradient)
        self._add(met.dense_codes[:, None], codes, dense * weight)
        if met.sparse.shape[1]:
            sparse = of_sparse @ gradient.transpose(1, 2)
            self._add(met.sparse_codes[..., None], codes, sparse * weight)

    def enter_scores(
        self, met: Meeting, codes: Int[Tensor, " m"], dense: Tensor, sparse: Tensor
    ) -> None:
        """Scores `[n m]` of dense senders and `[row n m]` of sparse ones that were found otherwise."""
        self._add(met.dense_codes[:, None], self._kept(codes), dense)
        self._add(met.sparse_codes[..., None], self._kept(codes), sparse)

    def settled(
        self,
    ) -> tuple[Int[Tensor, " edge"], Int[Tensor, " edge"], Float[Tensor, " edge"]]:
        """Sender, receiver and score of every edge."""
        if not self._waiting:
            none = torch.zeros(0, dtype=torch.long)
            return none, none, torch.zeros(0)
        self._settle()
        key, score = self._waiting[0]
        return key // self.total, key % self.total, score

    def _add(self, sender: Tensor, receiver: Tensor, score: Tensor) -> None:
        key = (sender * self.total + receiver).expand_as(score)
        kept = (score != 0) & (sender != PADDING) & (receiver != PADDING)
        self._waiting.append((key[kept], score[kept]))
        self._n_waiting += len(self._waiting[-1][1])
        if self._n_waiting > UNSORTED:
            self._settle()

    def _settle(self) -> None:
        """Sum what waits by edge; what has been summed waits again, but does not count."""
        keys, scores = (torch.cat(part) for part in zip(*self._waiting, strict=True))
        found, inverse = keys.unique(return_inverse=True)
        total = scores.new_zeros(len(found)).index_add(0, inverse, scores)
        self._waiting, self._n_waiting = [(found, total)], 0

    def _wanted(self, found: Dense) -> tuple[Tensor, Tensor]:
        if self.receivers is None:
            return found.codes, found.gradient
        kept = torch.isin(found.codes, self.receivers)
        return found.codes[kept], found.gradient[kept]

    def _kept(self, codes: Tensor) -> Tensor:
        if self.receivers is None:
            return codes
        return torch.where(torch.isin(codes, self.receivers), codes, PADDING)


def _in_one_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The widest of theirs: a model and its transcoders may differ."""
    widest = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return tuple(tensor.to(widest) for tensor in tensors)
