"""Where training starts, and what is set by hand on the way."""

from dataclasses import dataclass
from typing import Self, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.errors import ConfigError
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    Transcoder,
    TranscoderConfig,
)

THRESHOLD_MOMENTUM = 0.99


def initial_transcoder(cfg: TranscoderConfig, *, seed: int) -> Transcoder:
    """A random encoder; the decoder is its transpose for an SAE and zero for a transcoder, as in sparsify."""
    transcoder = Transcoder.init(cfg, seed=seed)
    if not cfg.is_sae:
        with torch.no_grad():
            transcoder.W_dec.zero_()
    return transcoder


def initial_cross_layer(cfg: CrossLayerConfig, *, seed: int) -> CrossLayerTranscoder:
    """Random encoders, and decoders of zeros."""
    transcoder = CrossLayerTranscoder.init(cfg, seed=seed)
    with torch.no_grad():
        for W_dec in transcoder.W_dec:
            W_dec.zero_()
    return transcoder


@final
@dataclass(frozen=True, slots=True)
class Units:
    """The spread of inputs and outputs: root mean square per coordinate, about the mean."""

    x: float = 1.0
    y: float = 1.0

    @classmethod
    def of(cls, x: Float[Tensor, "row d_in"], y: Float[Tensor, "row d_out"], *, layer: int) -> Self:
        """Those of a batch of a layer; raises ConfigError where they are 0 or not finite."""
        units = cls(_spread(x), _spread(y))
        for name, spread in (("inputs", units.x), ("outputs", units.y)):
            if not 0 < spread < float("inf"):
                raise ConfigError(
                    f"first batch of layer {layer}",
                    got=f"{name} with spread {spread}",
                    expected="activations that are finite and differ between tokens",
                    do="Check the model, the sites and the tokens.",
                )
        return units


@torch.no_grad()
def start(
    x: Float[Tensor, "row d_in"],
    y: Float[Tensor, "row d_out"],
    units: Units,
    *,
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
    W_dec: Float[Tensor, "feature d_out"],
    b_dec: Float[Tensor, " d_out"],
    threshold: Float[Tensor, " feature"] | None,
) -> None:
    """Fit fresh weights to the first batch, in place.

        W_enc ← W_enc/units.x    b_enc ← −mean(x) @ W_enc    W_dec ← W_dec·units.y    b_dec ← mean(y)

    so that the pre-activations have mean 0, and spread 1 where units are the data's. A threshold begins at
    their spread: of a normal distribution, 16 % lie above.
    """
    W_enc.div_(units.x)
    W_dec.mul_(units.y)
    b_enc.copy_(-x.mean(0) @ W_enc)
    b_dec.copy_(y.mean(0))
    if threshold is not None:
        threshold.fill_(_spread(x) / units.x)


@torch.no_grad()
def settle(
    threshold: Float[Tensor, " feature"] | None,
    boundary: Float[Tensor, ""] | None,
    *,
    first: bool,
) -> None:
    """After a step: keep JumpReLU's threshold from falling below 0, and move BatchTopK's towards the batch's boundary.

    BatchTopK's is the running mean of the smallest activation that stayed, begun at the first batch's own.
    """
    if threshold is None:
        return
    if boundary is None:
        threshold.clamp_(min=0)
    else:
        threshold.lerp_(boundary, 1.0 if first else 1 - THRESHOLD_MOMENTUM)


def _spread(values: Float[Tensor, "row d"]) -> float:
    return float((values - values.mean(0)).square().mean().sqrt())
