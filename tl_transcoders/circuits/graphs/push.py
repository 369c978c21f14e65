"""The forward pass of sources: those of the lowest layers go up through the model together, and are read there."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.circuitry import Circuitry
from tl_transcoders.circuits.graphs.readers import Reader
from tl_transcoders.circuits.graphs.rows import Block, Rows
from tl_transcoders.circuits.graphs.skips import Skip


@final
@dataclass(frozen=True, slots=True)
class Pushed:
    """What the sources of one position made of the stream that enters a layer, from their position `first` on.

    Columns of `state` are the biases of the layers below, which are pushed with the sources of the first position, and
    the sources.
    """

    first: int
    n_biases: int
    source: Int[Tensor, " source"]
    state: Float[Tensor, "d_model pos column"]


@final
class Push:
    """A pass of the sources of one position, of all layers below `ceiling`, up to what enters that."""

    def __init__(self, circuitry: Circuitry, pos: int, ceiling: int) -> None:
        self._circuitry, self._pos, self._ceiling = circuitry, pos, ceiling
        frame = circuitry.frame
        layers = circuitry.sources.layers[:ceiling]
        at = [range(nodes.start[pos], nodes.start[pos + 1]) for nodes in layers]
        self._source = torch.tensor([pos, *(i for part in at for i in part)])
        self._n_biases = 0 if pos else ceiling
        d_model, dtype = frame.run.embed.shape[-1], frame.dtype
        # Biases stand in front, each 0 until its layer.
        shape = d_model, frame.length - pos, self._n_biases + 1
        self._x = frame.run.embed.new_zeros(shape, dtype=dtype)
        self._x[:, 0, -1] = frame.run.embed[0, pos]

    def run(self, rows: Rows, readers: dict[int, tuple[Tensor, Reader]]) -> Pushed:
        """Up to the ceiling; `readers[layer]` are numbers and readers of the layer's features, position by position."""
        circuitry = self._circuitry
        for layer in range(self._ceiling):
            if circuitry.frame.block(layer).parallel:
                self._meet(rows, layer, readers)
                passed = self._skipped(layer)
                self._attend(layer)
            else:
                self._attend(layer)
                self._meet(rows, layer, readers)
                passed = self._skipped(layer)
            if passed is not None:
                self._x += passed
            self._join(layer)
        return Pushed(self._pos, self._n_biases, self._source, self._x.clone())

    def _attend(self, layer: int) -> None:
        wires = self._circuitry.wires[layer]
        wires.add_pushed(self._x, self._pos, self._circuitry.buffers)
        if self._n_biases:
            self._x[:, :, layer] += wires.bias

    def _skipped(self, layer: int) -> Tensor | None:
        skip = self._circuitry.skips[layer]
        return skip.pushed(self._x, self._pos) if isinstance(skip, Skip) else None

    def _join(self, layer: int) -> None:
        """The layer's own sources begin."""
        nodes, before = self._circuitry.sources.layers[layer], self._x.shape[2]
        (written,) = self._circuitry.written[layer]
        vectors = written.vectors[nodes.at(self._pos)]
        self._x = self._circuitry.buffers.widened(self._x, before + len(vectors))
        self._x[:, 0, before:] = vectors.T
        if self._n_biases:
            self._x[:, :, layer] += self._circuitry.biases[layer]

    def _meet(self, rows: Rows, layer: int, readers: dict[int, tuple[Tensor, Reader]]) -> None:
        """The features of a layer read."""
        if layer not in readers:
            return
        number, reader = readers[layer]
        pos, n = self._circuitry.sources.table.pos[number], self._n_biases
        counts = torch.bincount(pos, minlength=self._circuitry.frame.length)
        scores = torch.cat(
            [
                vectors @ self._x[:, i - self._pos]
                for i, vectors in enumerate(reader.vector.split(counts.tolist()))
                if i >= self._pos
            ]
        )
        target, source = number[pos >= self._pos], self._source[: self._x.shape[2] - n]
        rows.add(Block(layer, source, target, scores[:, n:].T.cpu()))
        if n:
            bias = scores.new_zeros(len(rows.bias), len(target))
            bias[:n] = scores[:, :n].T
            rows.add_bias(target, bias)
