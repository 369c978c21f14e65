"""The transposed pass: targets of one position go down through the model together, and meet what was written there."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.circuits.graphs.readers import read
from tl_transcoders.circuits.graphs.sources import Sources
from tl_transcoders.circuits.graphs.wires import Buffers, Wires, wires


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of targets of one position: scores of every slot up to it, of biases, and the pre-activations."""

    target: Int[Tensor, " n"]
    layer: Int[Tensor, " n"]
    scores: Float[Tensor, "pos slot n"]
    bias: Float[Tensor, "layer n"]
    value: Float[Tensor, " n"]

    @property
    def gap(self) -> float:
        """The largest |Σ of a row − pre-activation|, in units of Σ |its entries|."""
        total = self.scores.sum((0, 1)) + self.bias.sum(0)
        size = self.scores.abs().sum((0, 1)) + self.bias.abs().sum(0)
        return float(((total - self.value).abs() / size.clamp(min=1e-30)).max())


@final
@dataclass(frozen=True, slots=True)
class Sweeper:
    """Sweeps through a run. `budget` bounds the bytes of a sweep's working memory."""

    frame: Frame
    sources: Sources
    wires: tuple[Wires, ...]
    writing: "tuple[tuple[tuple[slice, Tensor], ...], ...]"
    biases: tuple[Tensor, ...]
    budget: int

    @classmethod
    def of(cls, frame: Frame, sources: Sources, budget: int) -> "Sweeper":
        """All that sweeps of a run share."""
        layers = range(frame.n_layers)
        return cls(
            frame,
            sources,
            tuple(wires(frame, layer) for layer in layers),
            tuple(tuple(sources.writing(layer)) for layer in layers),
            tuple(sources.bias(layer) for layer in layers),
            budget,
        )

    def rows(self, targets: NodeTable, first: int = 0) -> list[Rows]:
        """The rows of targets, those of one position and so many that they fit the budget at a time.

        `first` is the number of the first of them.
        """
        order = torch.argsort(targets.layer, descending=True, stable=True)
        order = order[torch.argsort(targets.pos[order], stable=True)]
        found = []
        for at_pos in order.split(torch.unique(targets.pos, return_counts=True)[1].tolist()):
            fitting = self._fitting(int(targets.pos[at_pos[0]]) + 1)
            found += [
                Sweep(self, targets.take(part), part + first).run()
                for part in at_pos.split(fitting)
            ]
        return found

    def _fitting(self, length: int) -> int:
        attention = self.frame.block(0).attention
        z = attention.W_O.shape[0] * attention.W_O.shape[1]
        a_target = (attention.W_O.shape[2] + 2 * z) * length * self.frame.dtype.itemsize
        return max(1, self.budget // a_target)


@final
class Sweep:
    """A sweep of targets of one position, the highest layers first. `g[n pos d_model]` is the gradient of every target so far, at the layer the sweep has come to."""

    def __init__(self, sweeper: Sweeper, targets: NodeTable, number: Int[Tensor, " n"]) -> None:
        frame, n = sweeper.frame, len(targets)
        self._sweeper, self._frame, self._targets, self._number = sweeper, frame, targets, number
        self._pos = int(targets.pos[0])
        length, like = self._pos + 1, frame.run.embed.new_empty(0, dtype=frame.dtype)
        W_O = sweeper.wires[0].W_O
        self._g = like.new_empty(n, length, W_O.shape[1])
        self._buffers = Buffers(n * length * len(W_O), like)
        self._scores = like.new_zeros(length, sweeper.sources.node.shape[1], n)
        self._bias = like.new_zeros(frame.n_layers + 1, n)
        self._value = like.new_zeros(n)
        self._joined = 0

    def run(self) -> Rows:
        """Down to the embedding."""
        frame = self._frame
        self._join(frame.n_layers)
        for layer in reversed(range(frame.n_layers)):
            self._meet(layer)
            passed = self._skipped(layer)
            if frame.block(layer).parallel:
                self._attend(layer)
                self._add(passed)
                self._join(layer)
            else:
                self._add(passed)
                self._join(layer)
                self._attend(layer)
        embed = frame.run.embed[0, : self._pos + 1].to(frame.dtype)
        self._scores[:, 0] = torch.einsum("nqd,qd->qn", self._g, embed)
        return Rows(
            target=self._number,
            layer=self._targets.layer,
            scores=self._scores,
            bias=self._bias,
            value=self._value,
        )

    @property
    def _live(self) -> Float[Tensor, "joined pos d_model"]:
        return self._g[: self._joined]

    def _join(self, layer: int) -> None:
        """The targets of a layer begin."""
        joining = self._targets.layer == layer
        if not joining.any():
            return
        reader = read(self._frame, self._targets.take(joining))
        where = slice(self._joined, self._joined + len(reader.value))
        self._g[where] = 0
        self._g[where, self._pos] = reader.vector
        self._bias[layer, where] += reader.bias
        self._value[where] = reader.value
        self._joined = where.stop

    def _meet(self, layer: int) -> None:
        """What was written behind the MLP of a layer."""
        if not self._joined:
            return
        length = self._pos + 1
        by_pos = self._live.permute(1, 2, 0)
        for slots, vectors in self._sweeper.writing[layer]:
            scores = self._scores[:, slots, : self._joined]
            scores += torch.bmm(vectors[:length], by_pos)
        self._add_bias(layer, self._sweeper.biases[layer])

    def _attend(self, layer: int) -> None:
        """Through attention, which adds biases of its own."""
        if self._joined:
            wires = self._sweeper.wires[layer]
            self._add_bias(layer, wires.bias)
            wires.add_pulled(self._live, self._buffers)

    def _skipped(self, layer: int) -> Float[Tensor, "joined pos d_model"] | None:
        """What a skip connection passes back."""
        frame, swap = self._frame, self._frame.swap(layer)
        if swap is None or swap.W_skip is None or not self._joined:
            return None
        block, length = frame.block(layer), self._pos + 1
        g = self._live
        if block.ln2_post is not None:
            g = block.ln2_post.pull(frame.value("mlp_raw", layer)[:length], g)
        g = (g * frame.spliced[:length, None]) @ swap.W_skip.T.to(g.dtype)
        return swap.pull(block, frame.value("mlp_in", layer)[:length], g)

    def _add(self, passed: Float[Tensor, "joined pos d_model"] | None) -> None:
        if passed is not None:
            self._g[: len(passed)] += passed

    def _add_bias(self, layer: int, bias: Float[Tensor, "pos d_model"]) -> None:
        if self._joined:
            flat = self._live.flatten(1)
            self._bias[layer, : self._joined] += flat @ bias[: self._pos + 1].flatten()
