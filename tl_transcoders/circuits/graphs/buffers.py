"""Working memory that passes share."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


@final
class Buffers:
    """Memory that every step of every pass uses again: fresh pages cost more than the arithmetic on them."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._turn = device, False
        self._memory: dict[tuple[str, torch.dtype], Tensor] = {}

    def widened(
        self, state: Float[Tensor, "d_model pos n"], n: int
    ) -> Float[Tensor, "d_model pos wider"]:
        """A state with room for n, zeros behind what it holds; two memories take turns."""
        self._turn = not self._turn
        *shape, before = state.shape
        wider = self.take("state" if self._turn else "other state", state.dtype, *shape, n)
        wider[:, :, :before] = state
        wider[:, :, before:] = 0
        return wider

    def take(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """The memory of a name, in a shape; what it held is lost."""
        size, key = torch.Size(shape).numel(), (name, dtype)
        if key not in self._memory or len(self._memory[key]) < size:
            self._memory.pop(key, None)
            self._memory[key] = torch.empty(size, dtype=dtype, device=self._device)
        return self._memory[key][:size].view(shape)
