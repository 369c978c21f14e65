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
class LossInputs:
    """What the loss of a layer reads besides activations.

    `W_dec[0]` writes the layer's own output; `variances` are those of the outputs that `W_dec` writes.
    """

    W_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "target feature d_out"]
    dead: Bool[Tensor, " feature"]
    variances: Float[Tensor, " target"]


@final
@dataclass(frozen=True, slots=True)
class Loss:
    """What is minimised, and the FVU within it, without gradient."""

    total: Float[Tensor, ""]
    fvu: Float[Tensor, ""]


def objective(
    config: TrainConfig,
    layer: LossInputs,
    encoded: Encoded,
    *,
    x: Float[Tensor, "row d_in"],
    y: Float[Tensor, "row d_out"],
    y_hat: Float[Tensor, "row d_out"],
) -> Loss:
    """FVU + l1 · L1 + sparsity · L0 + auxk · AuxK, leaving out terms of weight 0."""
    variance = layer.variances[0]
    fvu = losses.fvu(y, y_hat, variance)
    total = fvu
    if config.l1_weight:
        sizes = losses.written(layer.W_dec, layer.variances, rows=len(x))
        total = total + config.l1_weight * losses.l1(encoded.features, sizes)
    if config.l0_weight:
        total = total + config.l0_weight * encoded.active / len(x)
    if config.auxk and layer.dead.any():
        total = total + config.auxk * losses.auxk(
            x,
            y - y_hat,
            layer.W_enc,
            layer.b_enc,
            layer.W_dec[0],
            dead=layer.dead,
            variance=variance,
        )
    return Loss(total, fvu.detach())
