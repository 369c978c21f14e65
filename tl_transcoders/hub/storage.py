"""The elements behind a saved tensor, and the views of them that a file may ask for."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from tl_transcoders.hub.archive import Member

_MAX_DIMS = 8
_MAX_STRIDE = 2**40
_MAX_EMPTY = 2**40


@final
class StridesError(Exception):
    """A view that its storage does not hold."""


@final
@dataclass(frozen=True, slots=True)
class Storage:
    """Elements of one dtype, in a row."""

    flat: Shaped[Tensor, " element"]

    def tensor(self, offset: int, size: tuple[object, ...], stride: tuple[object, ...]) -> Tensor:
        """The view with these strides.

        Raises StridesError where it leaves the storage or has more elements than it.
        """
        sizes, strides = _counts(size), _counts(stride)
        if len(sizes) != len(strides) or not 0 <= offset <= self._last(sizes, strides):
            raise StridesError(f"a tensor outside its storage of {self.flat.numel():,} elements")
        return self.flat.as_strided(sizes, strides, offset)

    def _last(self, sizes: tuple[int, ...], strides: tuple[int, ...]) -> int:
        """The largest offset at which a view fits; negative where it fits nowhere."""
        if math.prod(max(n, 1) for n in sizes) > max(self.flat.numel(), _MAX_EMPTY):
            return -1
        if 0 in sizes:
            return self.flat.numel()
        span = sum((n - 1) * step for n, step in zip(sizes, strides, strict=False))
        fits = math.prod(sizes) <= self.flat.numel()
        return self.flat.numel() - 1 - span if fits else -1


def map_elements(path: Path, member: Member, dtype: torch.dtype) -> Tensor:
    """The member's elements, mapped from the file: a page is read when it is first touched.

    Copied where the file does not keep them at a multiple of their size.
    """
    if member.size < dtype.itemsize:
        return torch.empty(0, dtype=dtype)
    mapped = np.memmap(path, np.uint8, mode="c", offset=member.start, shape=(member.size,))
    raw = torch.from_numpy(mapped)[: member.size - member.size % dtype.itemsize]
    aligned = raw if member.start % dtype.itemsize == 0 else raw.clone()
    return aligned.view(dtype)


def _counts(values: tuple[object, ...]) -> tuple[int, ...]:
    counts = tuple(n for n in values if isinstance(n, int) and 0 <= n < _MAX_STRIDE)
    if len(counts) < len(values) or len(counts) > _MAX_DIMS:
        raise StridesError("sizes or strides that are no counts, or too many")
    return counts
