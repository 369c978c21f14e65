"""What a model's predictions lose: next-token loss, and divergence from the original."""

from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROWS = 64
"""Rows of logits that are compared at once, so that what lies between two passes over them stays in the cache."""


@final
class Predictions:
    """The original model's predictions for a batch, which others are compared with.

        loss[b, t] = −log p(tokens[b, t + 1] | tokens[b, ≤ t])        KL = Σ p_original · (log p_original − log p)

    both in nats.
    """

    def __init__(
        self, logits: Float[Tensor, "batch pos vocab"], tokens: Int[Tensor, "batch pos"]
    ) -> None:
        self._shape = tokens.shape
        # The last token of a prompt predicts nothing; any target will do there.
        self._following = tokens.roll(-1, dims=1).reshape(-1, 1)
        self._log_p = _rows(logits).float().log_softmax(-1)

    def loss(self) -> Float[Tensor, "batch next"]:
        """The loss of the original itself."""
        return self._as_loss(-self._log_p.gather(-1, self._following))

    def compare(
        self, logits: Float[Tensor, "batch pos vocab"]
    ) -> tuple[Float[Tensor, "batch next"], Float[Tensor, "batch pos"]]:
        """The loss of other logits, and KL(original ‖ other)."""
        losses, divergences = [], []
        parts = zip(
            _rows(logits).split(ROWS),
            self._log_p.split(ROWS),
            self._following.split(ROWS),
            strict=True,
        )
        for other, log_p, following in parts:
            log_q = other.float().log_softmax(-1)
            losses.append(-log_q.gather(-1, following))
            divergences.append((log_p - log_q).mul_(log_p.exp()).sum(-1))
        return self._as_loss(torch.cat(losses)), torch.cat(divergences).view(self._shape)

    def _as_loss(self, values: Float[Tensor, "row 1"]) -> Float[Tensor, "batch next"]:
        return values.view(self._shape)[:, :-1]


def _rows(logits: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, "row vocab"]:
    return logits.reshape(-1, logits.shape[-1])


@final
class Mean:
    """A mean over tokens, summed in float64."""

    def __init__(self) -> None:
        self._sum, self._n = 0.0, 0

    def add(self, values: Float[Tensor, "batch pos"], kept: Bool[Tensor, "batch pos"]) -> None:
        """Count the kept values."""
        chosen = values[kept]
        self._sum += chosen.sum(dtype=torch.float64).item()
        self._n += chosen.numel()

    @property
    def value(self) -> float:
        """The mean so far."""
        return self._sum / self._n if self._n else float("nan")
