"""Computes rows: the sources of the lowest layers are pushed up, targets above are pulled down to meet them."""

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.graphs.circuitry import Circuitry
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.circuits.graphs.pull import Pull
from tl_transcoders.circuits.graphs.push import Push, Pushed
from tl_transcoders.circuits.graphs.readers import Reader, read
from tl_transcoders.circuits.graphs.rows import Rows


@final
class Sweeper:
    """The rows of a run, computed when they are first asked for.

    A pull costs targets · layers above the floor, a push sources · layers below it, and a push gives every row of the
    layers below. Where all features get a row, both halves together cost half of pulling everything to the embedding:
    the products of an edge from s to t are done once, on the way from s to the cut or from t to it.
    `memory` bounds the bytes of a pass.
    """

    def __init__(self, circuitry: Circuitry, memory: int) -> None:
        frame = circuitry.frame
        self.circuitry, self.memory = circuitry, memory
        self.table = circuitry.sources.table
        self.rows = Rows(len(self.table), frame.n_layers + 1, frame.dtype)
        self.cut: int | None = None
        self.computed = 0
        """How many rows were computed by now."""
        self._below: list[Pushed] = []

    def number(self, targets: NodeTable) -> Int[Tensor, " target"]:
        """The numbers of some targets; those that are no active feature get one when they first occur."""
        found = []
        for row in targets.rows:
            (same,) = (self.table.rows == row).all(1).nonzero(as_tuple=True)
            if not len(same):
                same = torch.tensor([len(self.table)])
                self.table = NodeTable.joined([self.table, NodeTable(row[None])])
                self.rows.grow(1)
            found.append(same[:1])
        return torch.cat(found)

    def start(self, cut: int) -> None:
        """Push the sources of the layers below the cut up to it; nothing where pushes have begun before."""
        if self.cut is None:
            self.cut = cut
            self._push()

    def compute(self, number: Int[Tensor, " n"]) -> None:
        """The rows of targets that have none."""
        assert self.cut is not None
        number = number[~self.rows.done[number]]
        layer = self.table.layer[number]
        for floor, among in ((self.cut, layer >= self.cut), (0, layer < self.cut)):
            for part in self._passes(number[among]):
                targets = self.table.take(part)
                pull = Pull(self.circuitry, targets, part, self._readers(targets), floor)
                pull.run(self.rows, self._below)
                self.computed += len(part)

    def best_cut(self, expected: int) -> int:
        """The layer where pulls and pushes should meet if so many features get a row; 0 if all is to be pulled.

        With a share s of the features to pull, the cost s (L − c)² + c² is least at c = L s / (1 + s).
        """
        circuitry, n_layers = self.circuitry, self.circuitry.frame.n_layers
        if not circuitry.can_push:
            return 0
        share = expected / max(1, int(self.table.is_a("feature").sum()))
        cut = round(n_layers * share / (1 + share))
        while cut and circuitry.bytes_of_push(cut) > self.memory:
            cut -= 1
        return cut

    def _push(self) -> None:
        if not self.cut:
            return
        readers: dict[int, tuple[Tensor, Reader]] = {}
        sources = self.circuitry.sources.table  # targets that are silent features are pulled
        features = sources.is_a("feature")
        for layer in range(self.cut):
            (number,) = (features & (sources.layer == layer)).nonzero(as_tuple=True)
            if len(number):
                reader = read(self.circuitry.frame, sources.take(number))
                readers[layer] = number, reader
                bias = torch.zeros(len(self.rows.bias), len(number), dtype=self.rows.bias.dtype)
                bias[layer] = reader.bias.cpu()
                self.rows.add_bias(number, bias)
                self.rows.finish(number, reader.value)
                self.computed += len(number)
        for pos in range(self.circuitry.frame.length):
            self._below.append(Push(self.circuitry, pos, self.cut).run(self.rows, readers))

    def _readers(self, targets: NodeTable) -> dict[int, Reader]:
        layers = torch.unique(targets.layer).tolist()
        return {
            layer: read(self.circuitry.frame, targets.take(targets.layer == layer))
            for layer in layers
        }

    def _passes(self, number: Int[Tensor, " n"]) -> Iterator[Int[Tensor, " part"]]:
        """Targets of a position, so many that they fit the memory; the last positions and the highest layers first."""
        pos, layer = self.table.pos[number], self.table.layer[number]
        order = torch.argsort(layer, descending=True, stable=True)
        order = order[torch.argsort(pos[order], descending=True, stable=True)]
        ends, counts = torch.unique_consecutive(pos[order], return_counts=True)
        for end, group in zip(ends.tolist(), number[order].split(counts.tolist()), strict=True):
            yield from group.split(max(1, self.memory // self.circuitry.bytes_of_pull(end + 1)))
