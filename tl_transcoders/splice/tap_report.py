"""What `check` returns, and how it prints."""

from dataclasses import dataclass
from math import inf, isnan
from typing import Literal, final

from tl_transcoders._types import Site
from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts import site_name

UNEXPLAINED = 0.9
"""FVU above which a transcoder explains nothing worth splicing."""

BETTER = 0.75
"""Another tap is named where its FVU is at most this part of the stated tap's, and `MARGIN` lower."""

MARGIN = 0.002

Verdict = Literal["fits", "another tap fits", "no tap fits"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TapFit:
    """How well weights explain the MLP when read and written here.

    `folded` says whether they are taken as trained on a processed model.
    """

    read: Site
    write: Site
    folded: bool
    fvu: float

    def __str__(self) -> str:
        world = "processed" if self.folded else "raw"
        return f"{self.read} → {self.write} ({world})"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTaps:
    """One layer: the tap its config states, and every other one."""

    layer: int
    stated: TapFit
    others: tuple[TapFit, ...]

    @property
    def best(self) -> TapFit:
        """The tap of the lowest FVU."""
        return min((self.stated, *self.others), key=_fvu)

    @property
    def verdict(self) -> Verdict:
        """Whether the stated tap is the right one."""
        stated, best = _fvu(self.stated), _fvu(self.best)
        if best <= UNEXPLAINED and best <= BETTER * stated and best < stated - MARGIN:
            return "another tap fits"
        return "fits" if stated <= UNEXPLAINED else "no tap fits"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TapReport:
    """Every layer, measured on `n_tokens` tokens; the first `skipped` positions of each prompt are left out."""

    n_tokens: int
    skipped: int
    layers: tuple[LayerTaps, ...]

    @property
    def ok(self) -> bool:
        """Whether the stated tap fits in every layer."""
        return not self.wrong

    @property
    def wrong(self) -> tuple[LayerTaps, ...]:
        """The layers where it does not."""
        return tuple(row for row in self.layers if row.verdict != "fits")

    def raise_if_wrong(self) -> None:
        """Raise SpliceError where the stated tap does not fit some layer, naming the one that would."""
        if self.ok:
            return
        worst = max(self.wrong, key=lambda row: _fvu(row.stated))
        raise SpliceError(
            f"{site_name(worst.stated.read, worst.layer)}, tap check",
            got=(
                f"FVU {worst.stated.fvu:.3f} at the stated tap {worst.stated} "
                f"({len(self.wrong)} of {len(self.layers)} layers do not fit)"
            ),
            expected=f"an FVU below {UNEXPLAINED}, and no other tap that explains much more",
            do=_advice(worst),
        )

    def __str__(self) -> str:
        return "\n".join(
            [self.title, *(" | ".join(filter(None, row_cells(row))) for row in self.layers)]
        )

    def __rich__(self) -> object:
        # rich draws random numbers when it is imported, and importing this package changes nothing.
        from tl_transcoders.splice.tap_table import tap_table

        return tap_table(self)

    @property
    def title(self) -> str:
        """What was measured on."""
        return f"{self.n_tokens:,} tokens, without the first {self.skipped} of each prompt"


def row_cells(row: LayerTaps) -> tuple[str, ...]:
    """Layer, stated tap, its FVU and the verdict; then the best tap and its FVU where that is another one."""
    best = (str(row.best), f"{row.best.fvu:.3f}") if row.verdict != "fits" else ("", "")
    return (str(row.layer), str(row.stated), f"{row.stated.fvu:.3f}", row.verdict, *best)


def _fvu(fit: TapFit) -> float:
    return inf if isnan(fit.fvu) else fit.fvu


def _advice(row: LayerTaps) -> str:
    best = row.best
    if row.verdict == "no tap fits":
        return (
            f"No tap fits (the best is {best}, FVU {best.fvu:.3f}): check that these transcoders belong to this "
            "model, and that the tokens are like their training text, with or without BOS."
        )
    return (
        f"The weights fit {best} with FVU {best.fvu:.3f}: splice tl_transcoders.splice.retap(transcoders, "
        f"read={best.read!r}, write={best.write!r}, folded={best.folded})."
    )
