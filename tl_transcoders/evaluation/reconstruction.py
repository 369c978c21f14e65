"""How well features rebuild what the MLP computes, and how many they are."""

from typing import final

from jaxtyping import Bool, Float
from torch import Tensor


@final
class Tally:
    """Running sums over tokens, in float64, from which FVU, L0 and the share of dead features follow."""

    def __init__(self) -> None:
        self.n_tokens = 0
        self._error_square = 0.0
        self._square = 0.0
        self._total: Tensor | None = None
        self._active = 0
        self._fired: Tensor | None = None

    def add_output(
        self,
        error: Float[Tensor, "batch pos d_out"],
        output: Float[Tensor, "batch pos d_out"],
        kept: Bool[Tensor, "batch pos"],
    ) -> None:
        """Count y = `output` and y − ŷ = `error` at the kept positions."""
        y, gap = output[kept].double(), error[kept].double()
        self.n_tokens += len(y)
        self._error_square += gap.square().sum().item()
        self._square += y.square().sum().item()
        self._total = y.sum(0) if self._total is None else self._total + y.sum(0)

    def add_features(
        self, post: Float[Tensor, "batch pos feature"], kept: Bool[Tensor, "batch pos"]
    ) -> None:
        """Count the active features at the kept positions."""
        active = post[kept] != 0
        self._active += int(active.sum())
        fired = active.any(0)
        self._fired = fired if self._fired is None else self._fired | fired

    @property
    def fvu(self) -> float:
        """Σ‖y − ŷ‖² / Σ‖y − ȳ‖²."""
        if self._total is None:
            return float("nan")
        variance = self._square - self._total.square().sum().item() / self.n_tokens
        return self._error_square / variance if variance else float("nan")

    @property
    def l0(self) -> float:
        """Mean number of active features per token."""
        return self._active / self.n_tokens if self.n_tokens else float("nan")

    @property
    def dead(self) -> float:
        """Share of features that never fired."""
        return float("nan") if self._fired is None else 1 - self._fired.double().mean().item()
