"""Sums over a data set for those pairs of features that ever fire together."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.errors import ConfigError


@final
class PairSums:
    """`value[pair column]` for every pair seen, pairs numbered `target * n_source + source`, ascending.

    New entries wait until there are as many as sums; so memory is a small multiple of what is seen.
    """

    def __init__(self, columns: int, like: Tensor, memory: int) -> None:
        self._pair = torch.empty(0, dtype=torch.long, device=like.device)
        self._value = like.new_empty(0, columns)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._n_waiting, self._memory = 0, memory

    def add(self, pair: Int[Tensor, " n"], value: Float[Tensor, "n column"]) -> None:
        """More of some pairs; raises ConfigError where they no longer fit the memory."""
        self._waiting.append((pair, value))
        self._n_waiting += len(pair)
        if self._n_waiting > max(len(self._pair), 1 << 20):
            self._merge()

    def found(self) -> tuple[Int[Tensor, " pair"], Float[Tensor, "pair column"]]:
        """All pairs, and their sums."""
        self._merge()
        return self._pair, self._value

    def _merge(self) -> None:
        pair = torch.cat([self._pair, *(pair for pair, _ in self._waiting)])
        value = torch.cat([self._value, *(value for _, value in self._waiting)])
        self._pair, place = pair.unique(return_inverse=True)
        self._value = value.new_zeros(len(self._pair), value.shape[1]).index_add_(0, place, value)
        self._waiting, self._n_waiting = [], 0
        bytes_held = len(self._pair) * (8 + self._value.shape[1] * self._value.element_size())
        if bytes_held > self._memory:
            raise ConfigError(
                "mean_connections, memory",
                got=f"{len(self._pair):,} pairs that fire together, {bytes_held:,} bytes",
                expected=f"at most {self._memory:,}",
                do="Ask for fewer targets (one Feature at a time), or give more memory.",
            )
