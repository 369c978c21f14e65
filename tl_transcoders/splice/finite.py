"""Finite weights: checked before a splice, and where a decoder is too large for that, by what it writes."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tl_transcoders.errors import ConfigError
from tl_transcoders.transcoders import SparseFeatures

CHECKED_WHOLE = 1 << 26
"""How many entries a decoder may have (256 MB of float32) to be read from end to end before a splice.

The rest of a transcoder is read by its first forward pass anyway.
"""


def check_finite(where: str, tensor: Tensor) -> None:
    """Raise ConfigError for NaN or an infinite value; takes no memory."""
    if not all(math.isfinite(bound.item()) for bound in torch.aminmax(tensor.detach())):
        raise _not_finite(where)


def has_large_decoder(module: nn.Module) -> bool:
    """Whether its decoders have more than `CHECKED_WHOLE` entries together."""
    named = module.named_parameters()
    return sum(p.numel() for name, p in named if name.startswith("W_dec")) > CHECKED_WHOLE


def check_written(
    layer: int, y: Tensor, x: Tensor, features: Iterable[Tensor | SparseFeatures]
) -> None:
    """Raise ConfigError where y is not finite and what it is made of is: then a row of W_dec that was used is not."""
    if torch.isfinite(y.detach()).all():
        return
    values = (f.values if isinstance(f, SparseFeatures) else f for f in features)
    if all(torch.isfinite(tensor.detach()).all() for tensor in (x, *values)):
        raise _not_finite(f"transcoder of layer {layer}, W_dec of its active features")


def _not_finite(where: str) -> ConfigError:
    return ConfigError(
        where,
        got="NaN or infinite values",
        expected="finite weights",
        do="Load or train the transcoder again.",
    )
