"""How many streams of a run fit into some memory."""

from collections.abc import Iterator
from typing import Final

from tl_transcoders.circuits.graphs.frame import Frame

MEMORY: Final = 1 << 28
COPIES: Final = 8
"""How many tensors of the size of a stream a sweep holds for everything it carries."""


def chunks(frame: Frame, n: int, memory: int) -> Iterator[slice]:
    """Parts of n things that are carried side by side, each as large as a stream, so that a part fits."""
    size = COPIES * frame.run.embed[0].numel() * frame.dtype.itemsize
    each = max(1, memory // size)
    return (slice(first, min(n, first + each)) for first in range(0, n, each))
