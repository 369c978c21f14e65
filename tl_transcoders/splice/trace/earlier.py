"""Attention to positions that a pass does not compute: all rows of a prompt share its keys and values there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Earlier:
    """Turned keys, and values, of the positions before those of a pass, of every prompt; `example` is each row's."""

    k: Float[Tensor, "batch earlier head d_head"]
    v: Float[Tensor, "batch earlier head d_head"]
    example: Int[Tensor, " row"]

    @property
    def length(self) -> int:
        """How many positions come before."""
        return self.k.shape[1]

    def products(
        self, q: Float[Tensor, "row query head d_head"]
    ) -> Float[Tensor, "row head query earlier"]:
        """q · k of turned queries, not yet scaled."""
        return self._by_prompt(q, lambda q, i: torch.einsum("rqhd,khd->rhqk", q, self.k[i]))

    def mix(
        self, pattern: Float[Tensor, "row head query earlier"]
    ) -> Float[Tensor, "row query head d_head"]:
        """What a pattern takes of the values."""
        return self._by_prompt(pattern, lambda p, i: torch.einsum("rhqk,khd->rqhd", p, self.v[i]))

    def _by_prompt(self, x: Tensor, product: Callable[[Tensor, int], Tensor]) -> Tensor:
        order = self.example.argsort(stable=True)
        prompts, rows = self.example.unique(return_counts=True)
        parts = x[order].split(rows.tolist())
        found = [product(part, i) for part, i in zip(parts, prompts.tolist(), strict=True)]
        return torch.cat(found)[order.argsort()]
