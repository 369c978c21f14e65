"""The linear model of a run: what is written where, and how it travels."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs.bent import Bent, Unspliced
from tl_transcoders.circuits.graphs.buffers import Buffers
from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.skips import Skip, skip
from tl_transcoders.circuits.graphs.sources import Sources, Written
from tl_transcoders.circuits.graphs.wires import Wires, wires


@final
@dataclass(frozen=True, slots=True, eq=False)
class Circuitry:
    """Everything that passes through a run share, layer by layer; products along wires and skips are in `dtype`."""

    frame: Frame
    sources: Sources
    wires: tuple[Wires, ...]
    skips: tuple[Skip | Bent | None, ...]
    written: tuple[tuple[Written, ...], ...]
    biases: "tuple[Float[Tensor, 'd_model pos'], ...]"
    dtype: torch.dtype
    buffers: Buffers

    @classmethod
    def of(cls, frame: Frame, dtype: torch.dtype, unspliced: Unspliced) -> "Circuitry":
        """That of a run, its MLPs without transcoders constant or linear."""
        layers = range(frame.n_layers)
        bent = {}
        if unspliced == "linear":
            bent = {layer: Bent(frame, layer) for layer in layers if frame.swap(layer) is None}
        sources = Sources.of(frame, bent)
        return cls(
            frame,
            sources,
            tuple(wires(frame, layer, dtype) for layer in layers),
            tuple(bent.get(layer) or skip(frame, layer, dtype) for layer in layers),
            tuple(sources.written(layer) for layer in layers),
            tuple(sources.bias(layer).T.contiguous() for layer in layers),
            dtype,
            Buffers(frame.run.embed.device),
        )

    @property
    def can_push(self) -> bool:
        """Whether sources write behind their own layer alone, and MLPs pass nothing on, as pushes take for granted."""
        return not self.bends and all(
            written.source == layer for layer, found in enumerate(self.written) for written in found
        )

    @property
    def bends(self) -> bool:
        """Whether MLPs without a transcoder are linear."""
        return any(isinstance(skip, Bent) for skip in self.skips)

    def bytes_of_pull(self, length: int) -> int:
        """What one target takes in a pass over some positions."""
        d_model = self.frame.run.embed.shape[-1]
        products = len(self.wires[0].W_O) + len(self.wires[0].W_V)
        return length * (2 * d_model * self.frame.dtype.itemsize + products * self.dtype.itemsize)

    def bytes_of_push(self, cut: int) -> int:
        """What all sources below a layer take that are pushed up to it."""
        pos = self.sources.table.pos[: self.sources.layers[cut - 1].end]
        columns = (self.frame.length - pos).sum() + self.frame.length * cut
        return int(columns) * self.frame.run.embed.shape[-1] * self.frame.dtype.itemsize
