"""The rows of a graph found so far, as dense blocks: some sources against some targets."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Block:
    """Effects of some sources on some targets, the targets at `layer` or later, the sources before it."""

    layer: int
    source: Int[Tensor, " source"]
    target: Int[Tensor, " target"]
    scores: Float[Tensor, "source target"]


@final
class Rows:
    """Blocks, and by the number of a target its row of biases, its pre-activation, and Σ and Σ |·| of its other entries.

    Targets that are sources too have their number as such; others have numbers behind these.
    """

    def __init__(self, n_sources: int, n_biases: int, dtype: torch.dtype) -> None:
        self.n_sources = n_sources
        self.blocks: list[Block] = []
        self.done = torch.zeros(n_sources, dtype=torch.bool)
        self.value = torch.zeros(n_sources, dtype=dtype)
        self.total = torch.zeros(n_sources, dtype=dtype)
        self.size = torch.zeros(n_sources, dtype=dtype)
        self.bias = torch.zeros(n_biases, n_sources, dtype=dtype)

    def grow(self, n: int) -> None:
        """Make room for n more targets that are no sources."""
        self.done = torch.cat([self.done, self.done.new_zeros(n)])
        self.value = torch.cat([self.value, self.value.new_zeros(n)])
        self.total = torch.cat([self.total, self.total.new_zeros(n)])
        self.size = torch.cat([self.size, self.size.new_zeros(n)])
        self.bias = torch.cat([self.bias, self.bias.new_zeros(len(self.bias), n)], dim=1)

    def add(self, block: Block) -> None:
        """Keep a block."""
        if block.scores.numel():
            self.blocks.append(block)
            self.total[block.target] += block.scores.sum(0)
            self.size[block.target] += block.scores.abs().sum(0)

    def add_bias(self, target: Int[Tensor, " n"], bias: Float[Tensor, "layer n"]) -> None:
        """Add to the entries of biases."""
        self.bias[:, target] += bias.cpu()

    def finish(self, target: Int[Tensor, " n"], value: Float[Tensor, " n"]) -> None:
        """These rows are whole."""
        self.done[target] = True
        self.value[target] = value.cpu()

    def gap(self, target: Int[Tensor, " n"]) -> float:
        """The largest |Σ of a row − pre-activation| of some targets, in units of Σ |its entries|."""
        bias = self.bias[:, target]
        missing = (self.total[target] + bias.sum(0) - self.value[target]).abs()
        size = self.size[target] + bias.abs().sum(0)
        return float((missing / size.clamp(min=1e-30)).max())

    def influence(
        self, chosen: Bool[Tensor, " target"], weight: Float[Tensor, " target"]
    ) -> Float[Tensor, " target"]:
        """w (S + S² + …), S the shares of sources in the rows chosen; see `influence.influence`."""
        found = torch.zeros(len(self.done), dtype=torch.float64)
        scale = chosen / self.size.double().clamp(min=1e-30)
        for block in sorted(self.blocks, key=lambda block: -block.layer):
            x = ((weight + found) * scale)[block.target]
            if x.any():
                found.index_add_(
                    0, block.source, (block.scores.abs() @ x.to(block.scores.dtype)).double()
                )
        return found
