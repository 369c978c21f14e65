"""The transposed pass: targets go down through the model together, and meet what was written there."""

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.circuitry import Circuitry
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.circuits.graphs.push import Pushed
from tl_transcoders.circuits.graphs.readers import Reader
from tl_transcoders.circuits.graphs.rows import Block, Rows


@final
class Pull:
    """A pass of some targets at one position, the highest layers first, down to what was pushed up from below, or to the
    embedding.

    `g[d_model pos n]` are the gradients of the targets so far at the layer the pass has come to, of the positions up
    to theirs.
    """

    def __init__(
        self,
        circuitry: Circuitry,
        targets: NodeTable,
        number: Int[Tensor, " n"],
        readers: dict[int, Reader],
        floor: int,
    ) -> None:
        self._circuitry, self._frame = circuitry, circuitry.frame
        self._targets, self._number, self._readers, self._floor = targets, number, readers, floor
        self._length, n = int(targets.pos[0]) + 1, len(targets)
        embed, dtype = self._frame.run.embed, self._frame.dtype
        self._g = embed.new_empty(embed.shape[-1], self._length, 0, dtype=dtype)
        self._bias = embed.new_zeros(self._frame.n_layers + 1, n, dtype=dtype)
        self._scores: dict[int, Tensor] = {}

    def run(self, rows: Rows, below: list[Pushed]) -> None:
        """Down to the floor; `below` is what was pushed up to it."""
        circuitry = self._circuitry
        self._join(self._frame.n_layers)
        for layer in reversed(range(self._floor, self._frame.n_layers)):
            self._meet(layer)
            passed = self._skipped(layer)
            if self._frame.block(layer).parallel:
                self._attend(layer)
                self._add(passed)
                self._join(layer)
            else:
                self._add(passed)
                self._join(layer)
                self._attend(layer)
        if self._floor:
            for pushed in below:
                self._meet_pushed(rows, pushed)
        else:
            self._meet_embedding(rows)
        for layer, scores in self._scores.items():
            nodes = circuitry.sources.layers[layer]
            source = torch.arange(nodes.first, nodes.first + len(scores))
            target = self._number[: scores.shape[1]]
            rows.add(Block(layer + 1, source, target, scores.cpu()))
        value = torch.cat([reader.value for _, reader in self._read()])
        rows.add_bias(self._number, self._bias)
        rows.finish(self._number, value)

    @property
    def _joined(self) -> int:
        return self._g.shape[2]

    def _read(self) -> Iterator[tuple[int, Reader]]:
        yield from sorted(self._readers.items(), reverse=True)

    def _join(self, layer: int) -> None:
        """The targets of a layer begin, at their position."""
        if layer not in self._readers:
            return
        reader, before = self._readers[layer], self._joined
        after = before + len(reader.value)
        self._g = self._circuitry.buffers.widened(self._g, after)
        self._g[:, -1, before:] = reader.vector.T
        self._bias[layer, before:after] += reader.bias

    def _meet(self, layer: int) -> None:
        """What was written behind the MLP of a layer."""
        if not self._joined:
            return
        for written in self._circuitry.written[layer]:
            nodes = self._circuitry.sources.layers[written.source]
            scores = self._scores_of(written.source, nodes.until(self._length))
            for pos in range(self._length):
                at = nodes.at(pos)
                if at.stop > at.start:
                    scores[at, : self._joined].addmm_(written.vectors[at], self._g[:, pos])
        self._add_bias(layer, self._circuitry.biases[layer])

    def _scores_of(self, layer: int, n: int) -> Float[Tensor, "source target"]:
        if layer not in self._scores:
            later = int((self._targets.layer > layer).sum())
            self._scores[layer] = self._g.new_zeros(n, later)
        return self._scores[layer]

    def _attend(self, layer: int) -> None:
        """Through attention, which adds biases of its own."""
        if self._joined:
            wires = self._circuitry.wires[layer]
            self._add_bias(layer, wires.bias)
            wires.add_pulled(self._g, self._circuitry.buffers)

    def _skipped(self, layer: int) -> Tensor | None:
        """What a skip connection passes back."""
        skip = self._circuitry.skips[layer]
        return None if skip is None or not self._joined else skip.pulled(self._g)

    def _add(self, passed: Tensor | None) -> None:
        if passed is not None:
            self._g += passed

    def _add_bias(self, layer: int, bias: Float[Tensor, "d_model pos"]) -> None:
        here = bias[:, : self._length].flatten()
        self._bias[layer, : self._joined] += here @ self._g.flatten(0, 1)

    def _meet_embedding(self, rows: Rows) -> None:
        embed = self._frame.run.embed[0, : self._length].to(self._frame.dtype)
        scores = torch.bmm(embed[:, None], self._g.transpose(0, 1))[:, 0]
        rows.add(Block(0, torch.arange(self._length), self._number, scores.cpu()))

    def _meet_pushed(self, rows: Rows, pushed: Pushed) -> None:
        """One product for every position that both reach."""
        if pushed.first >= self._length:
            return
        scores = self._g.new_zeros(pushed.state.shape[2], self._joined)
        for pos in range(pushed.first, self._length):
            scores.addmm_(pushed.state[:, pos - pushed.first].T, self._g[:, pos])
        of_biases, of_sources = scores.split([pushed.n_biases, len(pushed.source)])
        rows.add(Block(self._floor, pushed.source, self._number, of_sources.cpu()))
        self._bias[: pushed.n_biases] += of_biases
