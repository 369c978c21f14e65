"""Scores of edges, summed as they come, however many there are."""

from dataclasses import dataclass, field
from typing import Final, final

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.attribution.codes import PADDING
from tl_transcoders.circuits.attribution.receiving import Dense
from tl_transcoders.circuits.attribution.walk import Meeting

UNSORTED: Final = 16_000_000
"""How many scores may wait before they are summed by edge."""


@final
@dataclass(slots=True)
class Ledger:
    """Sums of scores by edge: `sender[edge]`, `receiver[edge]`, `score[edge]`, after `settle`.

    With `receivers`, only those of these codes are kept.
    """

    receivers: Int[Tensor, " wanted"] | None = None
    sender: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    receiver: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    score: Tensor = field(default_factory=lambda: torch.zeros(0))
    _waiting: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    _n_waiting: int = 0

    def enter(self, meeting: Meeting, weight: float) -> None:
        """Every sender's change times every receiver's gradient, summed over rows."""
        met, found = meeting, meeting.receivers
        if isinstance(found, Dense):
            kept = self._wanted(found.codes)
            receiving, gradient = found.codes[kept], found.gradient[kept]
            dense = torch.einsum("nrd,mrd->nm", met.dense, gradient)
            self._add(met.dense_codes[:, None], receiving, dense * weight)
            sparse = torch.einsum("rnd,mrd->rnm", met.sparse, gradient)
            self._add(met.sparse_codes[..., None], receiving, sparse * weight)
            return
        receiving = torch.where(self._wanted(found.codes), found.codes, PADDING)[:, None]
        dense = torch.einsum("nrd,rmd->rnm", met.dense, found.gradient)
        self._add(met.dense_codes[:, None], receiving, dense * weight)
        sparse = met.sparse @ found.gradient.transpose(1, 2)
        self._add(met.sparse_codes[..., None], receiving, sparse * weight)

    def enter_scores(
        self, met: Meeting, receiving: Int[Tensor, " m"], dense: Tensor, sparse: Tensor
    ) -> None:
        """Scores `[n m]` of dense senders and `[row n m]` of sparse ones that were found otherwise."""
        kept = self._wanted(receiving)
        self._add(met.dense_codes[:, None], receiving[kept], dense[..., kept])
        self._add(met.sparse_codes[..., None], receiving[kept], sparse[..., kept])

    def settle(self) -> None:
        """Sum what waits."""
        if not self._waiting:
            return
        sender, receiver, score = (torch.cat(part) for part in zip(*self._waiting, strict=True))
        parts = [(self.sender, self.receiver, self.score), (sender, receiver, score)]
        sender, receiver, score = (torch.cat(part) for part in zip(*parts, strict=True))
        senders, row = sender.unique(return_inverse=True)
        receivers, column = receiver.unique(return_inverse=True)
        key, inverse = (row * len(receivers) + column).unique(return_inverse=True)
        self.score = score.new_zeros(len(key)).index_add(0, inverse, score)
        self.sender = senders[key // len(receivers)]
        self.receiver = receivers[key % len(receivers)]
        self._waiting, self._n_waiting = [], 0

    def _add(self, sender: Tensor, receiver: Tensor, score: Tensor) -> None:
        sender, receiver = sender.expand_as(score), receiver.expand_as(score)
        kept = (score != 0) & (sender != PADDING) & (receiver != PADDING)
        self._waiting.append((sender[kept], receiver[kept], score[kept]))
        self._n_waiting += len(self._waiting[-1][2])
        if self._n_waiting > UNSORTED:
            self.settle()

    def _wanted(self, codes: Tensor) -> Tensor:
        if self.receivers is None:
            return torch.ones_like(codes, dtype=torch.bool)
        return torch.isin(codes, self.receivers)
