"""What `evaluate` returns, and how it prints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a change does to the predictions: next-token loss, and KL(original ‖ changed), both in nats."""

    loss: float
    kl: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """One layer: its reconstruction, and what the model loses when it alone is spliced or ablated.

    `fvu` is the fraction of variance unexplained, `l0` the mean number of active features per token, and
    `dead` the share of features that fired at none of the tokens measured (in training, a feature is dead
    when it has not fired for `TrainConfig.dead_after` tokens). `spliced` and `ablated` are None where layers
    were not measured one by one.
    """

    layer: int
    fvu: float
    l0: float
    dead: float
    spliced: Effect | None
    ablated: Effect | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every layer by its number, and the model with all of them original, spliced, or ablated to zero.

    `str(report)` is the table, `report.markdown()` the same for a document.

    ```python
    with tlt.splice(model, transcoders) as spliced:
        report = tlt.evaluate(spliced, tokens)
    print(report)
    report.layers[2].fvu
    ```
    """

    n_tokens: int
    original: Effect
    spliced: Effect
    ablated: Effect
    layers: Mapping[int, LayerReport]

    @property
    def loss_recovered(self) -> float:
        """(ablated − spliced) / (ablated − original) of the loss: 1 is the original model."""
        return (self.ablated.loss - self.spliced.loss) / (self.ablated.loss - self.original.loss)

    def markdown(self) -> str:
        """The table for a document."""
        head = "| layer | FVU | L0 | dead | loss original | spliced | ablated | KL spliced | KL ablated |"
        lines = [head, "|---" * 9 + "|"]
        for row in self.layers.values():
            shape = (f"{row.fvu:.3f}", f"{row.l0:.1f}", f"{row.dead:.1%}")
            cells = (str(row.layer), *shape, *self.effects(row.spliced, row.ablated))
            lines.append("| " + " | ".join(cells) + " |")
        cells = ("all", "", "", "", *self.effects(self.spliced, self.ablated))
        return "\n".join([*lines, "| " + " | ".join(cells) + " |"])

    def effects(self, spliced: Effect | None, ablated: Effect | None) -> tuple[str, ...]:
        """The last five cells of a row: losses, then divergences."""

        def show(value: float | None) -> str:
            return "" if value is None else f"{value:.4f}"

        return (
            show(self.original.loss),
            show(None if spliced is None else spliced.loss),
            show(None if ablated is None else ablated.loss),
            show(None if spliced is None else spliced.kl),
            show(None if ablated is None else ablated.kl),
        )

    # rich draws random numbers when it is imported, and importing this package changes nothing.

    def __str__(self) -> str:
        from tl_transcoders.evaluation.table import as_text

        return as_text(self)

    def __rich__(self) -> object:
        from tl_transcoders.evaluation.table import report_table

        return report_table(self)
