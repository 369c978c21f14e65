"""A run on one prompt with everything frozen that a graph holds frozen."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_transcoders.hosts import Anatomy, Block, Norm
from tl_transcoders.splice.trace.forward import Spot
from tl_transcoders.splice.trace.run import Run
from tl_transcoders.splice.trace.swap import Swap


@final
@dataclass(frozen=True, slots=True)
class Frame:
    """The run, its anatomy with constant norm scales, and the dtype of everything computed from them."""

    run: Run
    anatomy: Anatomy
    dtype: torch.dtype

    @classmethod
    def of(cls, run: Run) -> "Frame":
        """The frame of a run on one prompt; low precision is widened to float32."""
        dtype = torch.promote_types(run.embed.dtype, torch.float32)
        return cls(run, run.model.anatomy.with_constant_scales(), dtype)

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Those of the model and of its transcoders."""
        coders = (swap.b_enc.dtype for swap in self.run.model.swaps.values())
        return {self.run.embed.dtype, *coders}

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.run.model.n_layers

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.run.shape[1]

    @property
    def spliced(self) -> Bool[Tensor, " pos"]:
        """The positions at which transcoders stand."""
        excluded = self.run.excluded
        if excluded is None:
            return torch.ones(self.length, dtype=torch.bool, device=self.run.embed.device)
        return ~excluded[0]

    def block(self, layer: int) -> Block:
        """A layer."""
        return self.anatomy.blocks[layer]

    def swap(self, layer: int) -> Swap | None:
        """The transcoder of a layer."""
        return self.run.model.swaps.get(layer)

    def value(self, spot: Spot, layer: int) -> Float[Tensor, "pos ..."]:
        """What the run computed."""
        return self.run.values[spot, layer][0].to(self.dtype)

    def pushed(
        self, layer: int, written: Float[Tensor, "pos *n d"], *, bias: bool = False
    ) -> Float[Tensor, "pos *n d"]:
        """What something the MLP of a layer writes adds to the stream; with `bias`, the post-norm's own too."""
        raw = self.value("mlp_raw", layer)
        wide = raw.view(len(raw), *[1] * (written.ndim - 2), -1)
        return pushed(self.block(layer).ln2_post, wide, written, bias=bias)


def pushed(
    norm: Norm | None,
    x: Float[Tensor, "*#batch d"],
    written: Float[Tensor, "*#batch d"],
    *,
    bias: bool,
) -> Float[Tensor, "*batch d"]:
    """What something written becomes behind a post-norm whose scale is x's."""
    if norm is None:
        return written
    return norm.push(x, written) + norm.bias if bias else norm.push(x, written)
