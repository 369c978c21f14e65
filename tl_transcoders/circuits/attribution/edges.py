"""Scores of edges: what a sender's change makes of what a receiver reads, times the gradient of that."""

from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.attribution.changes import Changes
from tl_transcoders.circuits.attribution.codes import Codebook
from tl_transcoders.circuits.attribution.ledger import Ledger
from tl_transcoders.circuits.attribution.qk_fix import Softmax
from tl_transcoders.circuits.attribution.receiving import Reading
from tl_transcoders.circuits.attribution.score import Family
from tl_transcoders.circuits.attribution.sending import Senders
from tl_transcoders.circuits.attribution.steps import Step
from tl_transcoders.circuits.attribution.walk import Meeting, Walk
from tl_transcoders.circuits.nodes import Reader
from tl_transcoders.splice.trace.run import Run

BUDGET: Final = 48_000_000
"""How many numbers all that is sent at the rows of one walk may hold together."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """How edges are scored: between which families, and whether queries and keys go through the softmax."""

    run: Run
    changes: Changes
    book: Codebook
    live_errors: bool
    qk_fix: bool
    senders: frozenset[Family]
    receivers: frozenset[str]

    def enter(self, ledger: Ledger, step: Step, rows: Int[Tensor, " row"]) -> None:
        """Add the scores of a step at some rows."""
        families = self.senders if step.families is None else self.senders & step.families
        for part in rows.split(self._at_once(rows)):
            reading = Reading(
                point=step.point,
                rows=part,
                excluded=self.run.excluded,
                live_errors=self.live_errors,
                book=self.book,
            )
            senders = Senders(self.changes, part, families, self.book)
            walk = Walk(reading=reading, senders=senders, kinds=self.receivers)
            for meeting in walk.meetings():
                if self.qk_fix and meeting.part in ("q", "k"):
                    self._through_softmax(ledger, meeting, meeting.part, step, part)
                else:
                    ledger.enter(meeting, step.weight)

    def _through_softmax(
        self, ledger: Ledger, met: Meeting, part: Reader, step: Step, rows: Tensor
    ) -> None:
        softmax = Softmax(run=self.run, point=step.point, layer=met.layer, rows=rows)
        dense, sparse = (
            torch.cat(
                [softmax.effects(part, softmax.response(part, some)) for some in sent.split(64)]
            )
            for sent in (met.dense, met.sparse.transpose(0, 1))
        )
        ledger.enter_scores(
            met, met.receivers.codes, dense.sum(1) * step.weight, sparse.transpose(0, 1)
        )

    def _at_once(self, rows: Tensor) -> int:
        length = self.run.tokens.numel()
        per_row = sum(
            int(torch.bincount(some.row, minlength=length).max()) if len(some.row) else 0
            for some in self.changes.features.values()
        )
        heads = sum(z.shape[2] for z in self.changes.heads.values())
        width = self.run.embed.shape[2]
        return max(1, min(len(rows), BUDGET // ((per_row + heads + 2) * width)))
