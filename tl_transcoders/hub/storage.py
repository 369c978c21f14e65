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
        elements = math.prod(sizes)
        steps = zip(sizes, strides, strict=False)
        last = offset + sum((n - 1) * step for n, step in steps) if elements else offset
        fits = elements <= self.flat.numel() and last < self.flat.numel() + (elements == 0)
        if len(sizes) != len(strides) or len(sizes) > _MAX_DIMS or offset < 0 or not fits:
            raise StridesError(f"a tensor outside its storage of {self.flat.numel():,} elements")
        return self.flat.as_strided(sizes, strides, offset)


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
    if len(counts) < len(values):
        raise StridesError("a size or a stride that is no count")
    return counts
