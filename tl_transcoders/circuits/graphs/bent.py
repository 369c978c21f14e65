"""MLPs without a transcoder, taken for linear at the run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.functional import jvp

from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.hosts import quiet

Unspliced = Literal["constant", "linear"]
AT_ONCE: Final = 4096
"""Gradients times positions that pass through an MLP together."""


@final
@dataclass(frozen=True, slots=True)
class Bent:
    """x ↦ J x, J the derivative of an MLP of a layer at the run, norm scales constant: activation derivatives, and both
    sides of a gate by the product rule. Autograd computes it, whatever the MLP is made of."""

    frame: Frame
    layer: int

    def pulled(self, g: Float[Tensor, "d_model pos n"]) -> Float[Tensor, "d_model pos n"]:
        """What gradients of what is written become as gradients of what is read, at the first positions."""
        at_once = max(1, AT_ONCE // g.shape[1])
        return torch.cat([self._pulled(part) for part in g.split(at_once, dim=2)], dim=2)

    def rest(self) -> Float[Tensor, "pos d_out"]:
        """What the MLP writes beyond J x."""
        frame, block = self.frame, self.frame.block(self.layer)
        x = frame.value("mlp_in", self.layer)
        read = block.ln2(x)
        with torch.enable_grad(), quiet(frame.run.spliced.host):
            both: Any = jvp(self._mlp(), read[None], (read - block.ln2.bias)[None])
        written, linear = both
        return (written - linear)[0].detach().to(frame.dtype)

    def _pulled(self, g: Tensor) -> Tensor:
        frame, block = self.frame, self.frame.block(self.layer)
        x, g = frame.value("mlp_in", self.layer)[: g.shape[1]], g.permute(2, 1, 0)
        if block.ln2_post is not None:
            g = block.ln2_post.pull(frame.value("mlp_raw", self.layer)[: g.shape[1]], g)
        with torch.enable_grad(), quiet(frame.run.spliced.host):
            read = block.ln2(x).detach().repeat(len(g), 1, 1).requires_grad_()
            written = self._mlp()(read)
            (found,) = torch.autograd.grad(written, read, g.to(written.dtype))
        return block.ln2.pull(x, found.to(frame.dtype)).permute(2, 1, 0)

    def _mlp(self) -> Callable[[Tensor], Tensor]:
        dtype = self.frame.run.embed.dtype
        mlp = self.frame.block(self.layer).mlp
        return lambda x: mlp(x.to(dtype))
