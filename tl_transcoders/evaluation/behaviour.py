"""What a model's predictions lose: next-token loss, and divergence from the original."""

from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def next_token_loss(
    logits: Float[Tensor, "batch pos vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch next"]:
    """−log p(tokens[t + 1] | tokens[≤ t]) in nats."""
    log_p = logits[:, :-1].float().log_softmax(-1)
    return -log_p.gather(-1, tokens[:, 1:, None])[..., 0]


def divergence(
    original: Float[Tensor, "batch pos vocab"], other: Float[Tensor, "batch pos vocab"]
) -> Float[Tensor, "batch pos"]:
    """KL(original ‖ other) in nats."""
    p, q = original.float().log_softmax(-1), other.float().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


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
