"""How much of what a model does remains when only a circuit of it is left."""

from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.ablation.ablations import Ablation, Resample
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
from tl_transcoders.hosts import quiet
from tl_transcoders.splice import Spliced

STANDARD_ERRORS: Final = 3.0
ROUNDING: Final = 1e3
"""By how many units in the last place metrics of equal models may differ."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Faithfulness:
    """The metric of every prompt with a circuit, with all but the circuit, with the whole model and with nothing.

        faithfulness = (m(C) − m(∅)) / (m(M) − m(∅))        completeness = (m(M − C) − m(∅)) / (m(M) − m(∅))

    Both are ratios of means over prompts and are never clamped. A faithful circuit is near 1, a complete one leaves
    nothing to the rest, near 0.

    Source: Marks et al. 2024, Sparse Feature Circuits, section 3.4.
    """

    circuit: Float[Tensor, " batch"]
    complement: Float[Tensor, " batch"]
    whole: Float[Tensor, " batch"]
    empty: Float[Tensor, " batch"]

    @property
    def faithfulness(self) -> float:
        """(m(C) − m(∅)) / (m(M) − m(∅)), each the mean over prompts; NaN or infinite where the last two are equal."""
        return ratio_of_means(self.circuit, self.whole, self.empty)

    @property
    def completeness(self) -> float:
        """The faithfulness of everything but the circuit."""
        return ratio_of_means(self.complement, self.whole, self.empty)

    @property
    def per_prompt(self) -> Float[Tensor, " batch"]:
        """The faithfulness of every prompt on its own."""
        return (self.circuit - self.empty) / (self.whole - self.empty)

    @property
    def degenerate(self) -> bool:
        """Whether m(M) and m(∅) are too close for their difference to be divided by."""
        return is_degenerate(self.whole, self.empty)

    @property
    def inverted(self) -> bool:
        """Whether the metric is larger with nothing left than with the whole model."""
        return bool(self.whole.mean() < self.empty.mean())


def ratio_of_means(
    part: Float[Tensor, " batch"], whole: Float[Tensor, " batch"], empty: Float[Tensor, " batch"]
) -> float:
    """(m(part) − m(∅)) / (m(M) − m(∅)), each the mean over prompts."""
    return float((part - empty).mean() / (whole - empty).mean())


def is_degenerate(whole: Float[Tensor, " batch"], empty: Float[Tensor, " batch"]) -> bool:
    """Whether the mean of m(M) − m(∅) is within three standard errors of zero, or within rounding."""
    difference = whole - empty
    size = float(difference.mean().abs())
    rounding = (
        ROUNDING * torch.finfo(whole.dtype).eps * float(torch.stack([whole, empty]).abs().max())
    )
    if len(difference) == 1:
        return size <= rounding
    error = float(difference.std()) / len(difference) ** 0.5
    return size <= max(rounding, STANDARD_ERRORS * error)


def faithfulness(
    spliced: Spliced,
    circuit: Circuit,
    base: Prompts,
    source: Prompts | None = None,
    *,
    metric: Metric,
    ablation: Ablation = Resample(),
    errors: Errors = "node",
    given: Given = (),
    level: Level | None = None,
) -> Faithfulness:
    """What is left of a metric when everything outside a circuit is ablated, and when the circuit is.

    A circuit of nodes: its nodes are computed, from whatever then reaches them; every other head, feature, error, MLP
    that is not spliced, and the embedding, has its ablated value. A circuit of edges: every reader (q, k and v of a
    head, a feature, an error, an MLP, the logits) reads a residual stream of its own, in which the senders of its edges
    are what they compute and all others have their ablated values. A node without a position stands for all of them.

    **Arguments:**

    - `circuit`: where it has edges, they count, and nodes alone only with `level="node"`.
    - `base`, `source`: tokens `[batch pos]` of equal length, or `Run`s of this splice. Only `Resample` needs `source`.
    - `ablation`: `Resample()`, `Mean(tokens)` or `Zero()`.
    - `errors`: `"node"`: in the circuit where it names them; `"keep"`: never ablated; `"drop"`: zero, whether named or
      not, in everything but the whole model.
    - `given`: what is never ablated: nodes, layers with all that is in them, or `Head`, `Feature`, `Error`, `Mlp` for all
      nodes of a kind.

    **Raises:** ConfigError for a node that the model lacks, `Resample` without `source`, or a circuit of edges in a
    splice that leaves positions to the original MLP; ShapeError for prompts of unequal length; SpliceError for a run of
    another splice.

    ```python
    with tlt.splice(model, transcoders, error="keep") as spliced:
        found = faithfulness(spliced, circuit, base, source, metric=metric, given=["embed", 0])
    print(found.faithfulness, found.completeness, found.degenerate)
    ```
    """
    setting = setting_of(
        spliced, base, source, metric=metric, ablation=ablation, errors=errors, given=given
    )
    with torch.no_grad(), quiet(spliced.host):
        left = Remainders(setting, level_of(circuit, level))
        return Faithfulness(
            circuit=left.with_only(circuit),
            complement=left.without(circuit),
            whole=left.whole(),
            empty=left.with_only(Circuit()),
        )
