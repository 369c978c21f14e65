"""How often, how much and how strongly every feature fires on a data set."""

from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders.evaluation.recording import recorded
from tl_transcoders.splice import Spliced

LIVE: Final = -4.0


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureStatistics:
    """Of every feature of a layer: at how many tokens it is active, the sum of its activations and of their squares, the largest."""

    layer: int
    n_tokens: int
    count: Int[Tensor, " feature"]
    total: Float[Tensor, " feature"]
    square: Float[Tensor, " feature"]
    largest: Float[Tensor, " feature"]

    @property
    def frequency(self) -> Float[Tensor, " feature"]:
        """Share of tokens at which a feature is active."""
        return self.count.double() / max(self.n_tokens, 1)

    @property
    def log10_frequency(self) -> Float[Tensor, " feature"]:
        """Its logarithm; −∞ of features that never are."""
        return self.frequency.log10()

    @property
    def mean(self) -> Float[Tensor, " feature"]:
        """Mean activation where active; 0 of features that never are."""
        return self.total / self.count.clamp(min=1)

    @property
    def variance(self) -> Float[Tensor, " feature"]:
        """Variance of the activation over all tokens, silent ones included."""
        n = max(self.n_tokens, 1)
        return (self.square / n - (self.total / n).square()).clamp(min=0)

    def live(self, log10_frequency: float = LIVE) -> Bool[Tensor, " feature"]:
        """Which features are active more often than that.

        Fewer than 10⁴ tokens cannot tell the default from never having fired.
        """
        return self.log10_frequency > log10_frequency

    def histogram(self, bins: int = 50) -> tuple[Int[Tensor, " bin"], Float[Tensor, " edge"]]:
        """How many features have a log10 frequency between edges, features that never fire left out."""
        found = self.log10_frequency[self.count > 0]
        edges = torch.linspace(min(-1.0, *found.tolist(), -1.0), 0.0, bins + 1, dtype=torch.double)
        place = torch.bucketize(found, edges, right=False).sub(1).clamp(0, bins - 1)
        return torch.bincount(place, minlength=bins), edges


@torch.no_grad()
def feature_statistics(
    spliced: Spliced,
    tokens: Int[Tensor, "batch pos"],
    *,
    mask: Bool[Tensor, "batch pos"] | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> dict[int, FeatureStatistics]:
    """Statistics of every feature of every spliced layer, in one pass over a data set.

        frequency = tokens at which it is active / tokens      live: log10 frequency > −4

    Features are those of the original model's activations: errors are kept meanwhile. Positions that the splice
    excludes, or a mask leaves out, do not count.

    Source: Dunefsky et al. 2024, Transcoders find interpretable LLM feature circuits.

    **Raises:** ConfigError for tokens the model cannot read; ShapeError for a mask of another shape.

    ```python
    statistics = feature_statistics(spliced, tokens)
    statistics[5].live().sum(), statistics[5].histogram()
    ```
    """
    options = {"where": "feature_statistics", "mask": mask, "batch_size": batch_size}
    sums: dict[int, tuple[Tensor, ...]] = {}
    n_tokens = 0
    for _, fired, counted in recorded(spliced, tokens, None, progress=progress, **options):
        n_tokens += int(counted.sum())
        for layer, post in fired.items():
            here = _sums(post[counted])
            sums[layer] = here if layer not in sums else _joined(sums[layer], here)
    return {
        layer: FeatureStatistics(
            layer=layer, n_tokens=n_tokens, count=count, total=total, square=square, largest=largest
        )
        for layer, (count, total, square, largest) in sums.items()
    }


def _sums(kept: Float[Tensor, "n feature"]) -> tuple[Tensor, ...]:
    wide = kept.double()
    largest = kept.amax(0) if len(kept) else kept.new_zeros(kept.shape[1])
    return (kept != 0).sum(0), wide.sum(0), wide.square().sum(0), largest


def _joined(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return *(x + y for x, y in zip(a[:-1], b[:-1], strict=True)), torch.maximum(a[-1], b[-1])
