"""What nodes are where a circuit does not hold them: zero, a mean over prompts, or what they are in the source run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from torch import Tensor

from tl_transcoders.circuits.checks import tokens_of
from tl_transcoders.circuits.edits import Mean
from tl_transcoders.circuits.values import check_fits, mean_values
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice.trace.forward import Rows, Spot
from tl_transcoders.splice.trace.run import Run
from tl_transcoders.transcoders import SparseFeatures

WRITTEN: Final[frozenset[Spot]] = frozenset({"embed", "z", "features", "error", "mlp_raw"})
"""Where the values of nodes stand."""


@final
@dataclass(frozen=True, slots=True)
class Zero:
    """A node outside the circuit is zero."""


@final
@dataclass(frozen=True, slots=True)
class Resample:
    """A node outside the circuit is what it is in the source run, on that prompt and at that position."""


Ablation = Zero | Mean | Resample


@final
@dataclass(frozen=True, slots=True)
class Ablated:
    """The value that takes a node's place, by spot and layer, `[batch pos ...]`; zero where there is none."""

    values: Mapping[tuple[Spot, int], Tensor | SparseFeatures]

    def of(self, spot: Spot, layer: int, rows: Rows, like: Tensor) -> Tensor:
        """What stands at a spot in these rows, broadcastable to it."""
        value = self.values.get((spot, layer))
        if value is None:
            return like.new_zeros(()).expand([1] * like.ndim)
        return rows.of(value.to_dense() if isinstance(value, SparseFeatures) else value)

    def without(self, spot: Spot) -> "Ablated":
        """The same with zero at a spot of every layer."""
        return Ablated({place: value for place, value in self.values.items() if place[0] != spot})


def ablated(ablation: Ablation, base: Run, source: Run | None) -> Ablated:
    """The values that an ablation puts in the place of nodes of the base run.

    **Raises:** ConfigError for `Resample` without a source run, and for what is no ablation; ShapeError for means at
    positions that the base prompts do not have.
    """
    match ablation:
        case Zero():
            return Ablated({})
        case Mean():
            return _means(ablation, base)
        case Resample():
            if source is None:
                raise ConfigError(
                    "ablation",
                    got="Resample() without source prompts",
                    expected="source prompts, whose values the ablated nodes take",
                    do="Pass source=..., or ablation=Zero() or Mean(tokens).",
                )
            return Ablated(_written(source))
        case _:
            raise ConfigError(
                "ablation",
                got=repr(ablation),
                expected="Zero(), Mean(tokens) or Resample()",
                do="Choose what nodes outside the circuit become.",
            )


def _written(run: Run) -> dict[tuple[Spot, int], Any]:
    kept = {place: value for place, value in run.values.items() if place[0] in WRITTEN}
    return {("embed", 0): run.embed, **kept}


def _means(mean: Mean, base: Run) -> Ablated:
    check_fits(mean, tokens_of(base.spliced, mean.tokens, "Mean"), base.tokens)
    means = mean_values(base.spliced, mean, _written(base), base.shape[1])
    return Ablated(
        {place: value.expand(base.shape[0], *value.shape[1:]) for place, value in means.items()}
    )
