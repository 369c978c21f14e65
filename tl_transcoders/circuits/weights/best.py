"""The k strongest of more numbers than fit in memory, block by block."""

from collections.abc import Iterator
from typing import Final, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

Sign = Literal["both", "positive", "negative"]
SIGNS: Final = ("both", "positive", "negative")
NONE: Final = -1


@final
class Best:
    """The k strongest candidates of every group: the largest |value|, value or −value."""

    def __init__(self, groups: int, k: int, sign: Sign, like: Tensor) -> None:
        self.value = like.new_zeros(groups, k)
        self.number = torch.full((groups, k), NONE, device=like.device)
        self._k, self._sign = k, sign

    def offer(
        self, groups: slice, value: Float[Tensor, "group c"], number: Int[Tensor, "#group c"]
    ) -> None:
        """Candidates of some groups, and their numbers."""
        few = self._order(value).topk(min(self._k, value.shape[1]), dim=1).indices
        value, number = value.gather(1, few), number.expand_as(value).gather(1, few)
        value = torch.cat([self.value[groups], value], dim=1)
        number = torch.cat([self.number[groups], number], dim=1)
        order = self._order(value).masked_fill(number == NONE, float("-inf"))
        kept = order.topk(self._k, dim=1).indices
        self.value[groups], self.number[groups] = value.gather(1, kept), number.gather(1, kept)

    def found(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]:
        """Groups, numbers and values, group by group and the strongest first; values of 0 are left out."""
        there = (self.number != NONE) & (self._order(self.value) > 0)
        group, _ = there.nonzero(as_tuple=True)
        return group, self.number[there], self.value[there]

    def _order(self, value: Tensor) -> Tensor:
        match self._sign:
            case "both":
                return value.abs()
            case "positive":
                return value
            case _:
                return -value


def blocks(n: int, per_block: int, width: int) -> Iterator[slice]:
    """Rows by as many at a time as make blocks that are about square, and fit."""
    size = min(n, max(per_block // width, int(per_block**0.5), 1))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
