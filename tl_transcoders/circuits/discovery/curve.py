"""How faithful the best nodes or edges of a ranking are, the more of them are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.ablation.ablations import Ablation, Resample
from tl_transcoders.circuits.ablation.faithfulness import is_degenerate, ratio_of_means
from tl_transcoders.circuits.ablation.free import Given
from tl_transcoders.circuits.ablation.remainders import Remainders
from tl_transcoders.circuits.ablation.setting import (
    Errors,
    Level,
    Prompts,
    level_of,
    setting_of,
)
from tl_transcoders.circuits.circuit import Circuit
from tl_transcoders.circuits.metrics import Metric
from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import quiet
from tl_transcoders.splice import Spliced

MIB_SIZES: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The metric of circuits of growing size, of the whole model and of nothing.

    `counts[size]` nodes or edges of the ranking were kept, a share `shares[size]` of it; `circuits[size, batch]` is the
    metric then.

    Source: Mueller et al. 2025, MIB: A Mechanistic Interpretability Benchmark, section 3.
    """

    counts: Int[Tensor, " size"]
    shares: Float[Tensor, " size"]
    circuits: Float[Tensor, "size batch"]
    whole: Float[Tensor, " batch"]
    empty: Float[Tensor, " batch"]

    @property
    def faithfulness(self) -> Float[Tensor, " size"]:
        """That of every size."""
        values = [ratio_of_means(circuit, self.whole, self.empty) for circuit in self.circuits]
        return torch.tensor(values, dtype=self.shares.dtype)

    @property
    def cpr(self) -> float:
        """Circuit performance ratio: the area under faithfulness over the share kept, by trapezoids; more is better."""
        return float(torch.trapezoid(self.faithfulness, self.shares))

    @property
    def cmd(self) -> float:
        """Circuit-model distance: the area between faithfulness and 1; less is better."""
        return float(torch.trapezoid((1 - self.faithfulness).abs(), self.shares))

    @property
    def degenerate(self) -> bool:
        """Whether m(M) and m(∅) are too close for their difference to be divided by."""
        return is_degenerate(self.whole, self.empty)


def curve(
    spliced: Spliced,
    circuit: Circuit,
    base: Prompts,
    source: Prompts | None = None,
    *,
    metric: Metric,
    sizes: Sequence[float | int] = MIB_SIZES,
    absolute: bool = True,
    ablation: Ablation = Resample(),
    errors: Errors = "node",
    given: Given = (),
    level: Level | None = None,
) -> Curve:
    """The faithfulness of the best nodes or edges of a circuit whose nodes or edges have scores.

    **Arguments:** as `faithfulness`, and

    - `sizes`: how many to keep, two or more: integers are numbers of them, other numbers their share of those with a
      score. Areas reach from the smallest size to the largest.
    - `absolute`: whether a large negative score ranks high, which suits `cmd`; `cpr` is fairest to signed ranks that
      keep what helps.

    **Raises:** as `faithfulness`; ConfigError for sizes out of range or a circuit without scores.

    ```python
    found = curve(spliced, attributed, base, source, metric=metric)
    print(found.cpr, found.cmd)
    ```
    """
    chosen = level_of(circuit, level)
    counts, ranked = _counts(circuit, sizes, chosen)
    setting = setting_of(
        spliced, base, source, metric=metric, ablation=ablation, errors=errors, given=given
    )
    with torch.no_grad(), quiet(spliced.host):
        left = Remainders(setting, chosen)
        measured = [
            left.with_only(circuit.top_n(**{f"{chosen}s": n}, absolute=absolute)) for n in counts
        ]
        return Curve(
            counts=torch.tensor(counts),
            shares=torch.tensor(counts, dtype=torch.float64) / ranked,
            circuits=torch.stack(measured),
            whole=left.whole(),
            empty=left.with_only(Circuit()),
        )


def _counts(circuit: Circuit, sizes: Sequence[float | int], level: Level) -> tuple[list[int], int]:
    """How many to keep, ascending, and how many there are."""
    ranked = len((circuit.edges if level == "edge" else circuit.nodes) & circuit.scores.keys())
    if not ranked:
        raise ConfigError(
            "curve",
            got=f"a circuit in which no {level} has a score",
            expected="scores to rank by",
            do='Attribute or sweep first, or pass level="node" or level="edge".',
        )
    fit = [0 <= size <= (ranked if isinstance(size, Integral) else 1) for size in sizes]
    if len(fit) < 2 or not all(fit):
        raise ConfigError(
            "sizes",
            got=repr(tuple(sizes)),
            expected=f"two or more numbers up to {ranked}, or shares from 0.0 to 1.0",
            do="Correct the sizes.",
        )
    counts = [int(n) if isinstance(n, Integral) else round(n * ranked) for n in sizes]
    return sorted(counts), ranked
