"""Skip connections of transcoders with their norms' scales frozen: a linear map of the residual stream, and its transpose."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs.frame import Frame


@final
@dataclass(frozen=True, slots=True)
class Skip:
    """x ↦ scale · x @ matrix, the norms around the transcoder folded in; scale is 0 where the splice leaves it out."""

    matrix: Float[Tensor, "d_model d_model"]
    scale: Float[Tensor, "pos 1"]

    def pulled(self, g: Float[Tensor, "d_model pos n"]) -> Float[Tensor, "d_model pos n"]:
        """What gradients of what is written become as gradients of what is read, at the first positions."""
        return self._times(self.matrix, g, self.scale[: g.shape[1]])

    def pushed(
        self, x: Float[Tensor, "d_model pos n"], first: int
    ) -> Float[Tensor, "d_model pos n"]:
        """What is made of the stream from its position `first` on."""
        return self._times(self.matrix.T, x, self.scale[first : first + x.shape[1]])

    def _times(self, matrix: Tensor, x: Tensor, scale: Tensor) -> Tensor:
        made = matrix @ x.flatten(1).to(matrix.dtype)
        return made.to(x.dtype).view(x.shape).mul_(scale)


def skip(frame: Frame, layer: int, dtype: torch.dtype) -> Skip | None:
    """The skip connection of a layer, for products in a dtype; None where there is none."""
    swap, block = frame.swap(layer), frame.block(layer)
    if swap is None or swap.W_skip is None:
        return None
    matrix = swap.W_skip.to(frame.dtype)
    scale = frame.spliced[:, None].to(frame.dtype)
    if swap.coder.cfg.read in ("mlp_in", "ln2_normalized"):
        if swap.coder.cfg.read == "mlp_in":
            matrix = block.ln2.gain[:, None] * matrix
        matrix = block.ln2.centre(matrix.T).T
        scale = scale / block.ln2.scale(frame.value("mlp_in", layer))
    if block.ln2_post is not None:
        matrix = block.ln2_post.centre(matrix) * block.ln2_post.gain
        scale = scale / block.ln2_post.scale(frame.value("mlp_raw", layer))
    return Skip(matrix.to(dtype).contiguous(), scale)
