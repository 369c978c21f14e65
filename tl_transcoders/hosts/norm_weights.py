"""The weights of a norm."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class NormWeights:
    """What a norm does after normalising.

        norm(x) = normalised(x) * gain (+ bias)

    `gain` is the factor itself, also where the model stores gain − 1 (Gemma).
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None = None
