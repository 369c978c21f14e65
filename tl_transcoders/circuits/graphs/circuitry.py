"""The linear model of a run: what is written where, and how it travels."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.skips import Skip, skip
from tl_transcoders.circuits.graphs.sources import Sources, Written
from tl_transcoders.circuits.graphs.wires import Buffers, Wires, wires


@final
@dataclass(frozen=True, slots=True, eq=False)
class Circuitry:
    """Everything that passes through a run share, layer by layer; products along wires and skips are in `dtype`."""

    frame: Frame
    sources: Sources
    wires: tuple[Wires, ...]
    skips: tuple[Skip | None, ...]
    written: tuple[tuple[Written, ...], ...]
    biases: "tuple[Float[Tensor, 'pos d_model'], ...]"
    dtype: torch.dtype
    buffers: Buffers

    @classmethod
    def of(cls, frame: Frame, dtype: torch.dtype) -> "Circuitry":
        """That of a run."""
        sources, layers = Sources.of(frame), range(frame.n_layers)
        return cls(
            frame,
            sources,
            tuple(wires(frame, layer, dtype) for layer in layers),
            tuple(skip(frame, layer, dtype) for layer in layers),
            tuple(sources.written(layer) for layer in layers),
            tuple(sources.bias(layer) for layer in layers),
            dtype,
            Buffers(dtype, frame.run.embed.device),
        )

    @property
    def can_push(self) -> bool:
        """Whether every source writes behind its own layer alone, which pushes count on: no cross-layer transcoder."""
        return all(
            written.source == layer for layer, found in enumerate(self.written) for written in found
        )

    def bytes_of_pull(self, length: int) -> int:
        """What one target takes in a pass over some positions."""
        d_model = self.frame.run.embed.shape[-1]
        products = len(self.wires[0].W_O) + len(self.wires[0].W_V)
        return length * (d_model * self.frame.dtype.itemsize + products * self.dtype.itemsize)

    def bytes_of_push(self, cut: int) -> int:
        """What all sources below a layer take that are pushed up to it."""
        pos = self.sources.table.pos[: self.sources.layers[cut - 1].end]
        columns = (self.frame.length - pos).sum() + self.frame.length * cut
        return int(columns) * self.frame.run.embed.shape[-1] * self.frame.dtype.itemsize
