"""The loss of one layer: FVU, the price of sparsity, and the auxiliary loss."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Bool, Float
from torch import Tensor

from tl_transcoders.training import losses
from tl_transcoders.training.config import TrainConfig
from tl_transcoders.training.encode import Encoded


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The weights of a layer that the loss reads: its encoder, what it writes for itself, and all it writes."""

    W_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, " feature"]
    W_own: Float[Tensor, "feature d_out"]
    W_all: Float[Tensor, "*target feature d_out"]
    dead: Bool[Tensor, " feature"]


@final
@dataclass(frozen=True, slots=True)
class Loss:
    """What is minimised, and the FVU within it, without gradient."""

    total: Float[Tensor, ""]
    fvu: Float[Tensor, ""]


def objective(
    config: TrainConfig,
    layer: Layer,
    encoded: Encoded,
    *,
    x: Float[Tensor, "row d_in"],
    y: Float[Tensor, "row d_out"],
    y_hat: Float[Tensor, "row d_out"],
) -> Loss:
    """FVU + l1 · L1 + sparsity · L0 + auxk · AuxK, leaving out terms of weight 0."""
    variance = losses.total_variance(y)
    fvu = losses.fvu(y, y_hat, variance)
    total = fvu
    if config.l1_weight:
        norms = losses.norms(layer.W_all)
        total = total + config.l1_weight * losses.l1(encoded.features, norms, variance)
    if config.l0_weight:
        total = total + config.l0_weight * encoded.active / len(x)
    if config.auxk and layer.dead.any():
        total = total + config.auxk * losses.auxk(
            x,
            y - y_hat,
            layer.W_enc,
            layer.b_enc,
            layer.W_own,
            dead=layer.dead,
            variance=variance,
        )
    return Loss(total, fvu.detach())
