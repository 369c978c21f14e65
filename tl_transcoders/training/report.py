"""How training goes."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Self, final


@final
@dataclass(frozen=True, slots=True)
class StepReport:
    """How well a batch was reconstructed before the step: FVU, active features per token, share of dead features."""

    fvu: float
    l0: float
    dead: float

    @classmethod
    def mean(cls, reports: Collection[Self]) -> Self:
        """The mean of each figure, for instance over layers."""
        n = len(reports)
        return cls(
            math.fsum(report.fvu for report in reports) / n,
            math.fsum(report.l0 for report in reports) / n,
            math.fsum(report.dead for report in reports) / n,
        )

    def __str__(self) -> str:
        return f"FVU {self.fvu:.4f}, L0 {self.l0:.1f}, dead {self.dead:.1%}"
