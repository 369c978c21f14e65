"""What nodes are where a circuit does not hold them: zero, a mean over prompts, or what they are in the source run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from jaxtyping import Int
from torch import Tensor

from tl_transcoders.errors import ConfigError, ShapeError
from tl_transcoders.hosts import check_tokens
from tl_transcoders.splice.trace.forward import Rows, Spot
from tl_transcoders.splice.trace.run import Run, capture
from tl_transcoders.transcoders import SparseFeatures

WRITTEN: Final[frozenset[Spot]] = frozenset({"embed", "z", "features", "error", "mlp_raw"})
"""Where the values of nodes stand."""
AT_ONCE: Final = 16
"""How many prompts of a data set are run at a time."""


@final
@dataclass(frozen=True, slots=True)
class Zero:
    """A node outside the circuit is zero."""


@final
@dataclass(frozen=True, slots=True)
class Resample:
    """A node outside the circuit is what it is in the source run, on that prompt and at that position."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """A node outside the circuit is its mean over `tokens`, at each position on its own or over all of them."""

    tokens: Int[Tensor, "prompt pos"]
    per_position: bool = True


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
    check_tokens(base.spliced.host, mean.tokens, "Mean")
    batch, length = base.shape
    if mean.per_position and mean.tokens.shape[1] != length:
        raise ShapeError(
            "Mean",
            got=f"prompts of {mean.tokens.shape[1]} positions",
            expected=f"those of base, {length}",
            do="Take prompts of that length, or Mean(tokens, per_position=False).",
        )
    sums: dict[tuple[Spot, int], Tensor] = {}
    for part in mean.tokens.split(AT_ONCE):
        for place, value in _written(capture(base.spliced, part)).items():
            whole = value.to_dense() if isinstance(value, SparseFeatures) else value
            total = whole.sum(0, keepdim=True)
            sums[place] = total if place not in sums else sums[place] + total
    means = {place: total / len(mean.tokens) for place, total in sums.items()}
    if not mean.per_position:
        means = {place: value.mean(1, keepdim=True) for place, value in means.items()}
    return Ablated(
        {place: value.expand(batch, length, *value.shape[2:]) for place, value in means.items()}
    )
