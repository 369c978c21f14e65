"""Memory that a file is mapped into: told from memory of our own, and given back to the system after use.

Only Linux says which is which, page by page, in /proc/self/pagemap; elsewhere nothing is given back.
"""

import ctypes
import mmap
import os
import sys

import numpy as np
from torch import Tensor

PAGEMAP = "/proc/self/pagemap"
OF_FILE = np.uint64(1 << 61)
IN_USE = np.uint64(3 << 62)
"""Bits of a pagemap entry: a page of a file or of shared memory; a page that is present or swapped out."""

DONT_NEED = 4


def lies_in_file(tensor: Tensor) -> bool:
    """Whether the memory of a contiguous tensor begins in a mapped file; reads its first byte."""
    if sys.platform != "linux" or tensor.device.type != "cpu" or not tensor.numel():
        return False
    ctypes.string_at(tensor.data_ptr(), 1)
    return bool(_entries(tensor.data_ptr(), 1)[0] & OF_FILE)


def give_back(tensor: Tensor) -> None:
    """Unmap the pages of a contiguous tensor, to be read from the file again when next touched.

    Does nothing where one of them is memory of this process' own, such as a page that was written to:
    nothing is ever lost.
    """
    first = tensor.data_ptr() // mmap.PAGESIZE
    n_pages = -(-(tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE) - first
    entries = _entries(tensor.data_ptr(), n_pages)
    used = entries[(entries & IN_USE) != 0]
    if len(entries) == n_pages and ((used & OF_FILE) != 0).all():
        start, length = first * mmap.PAGESIZE, n_pages * mmap.PAGESIZE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), DONT_NEED)


def _entries(address: int, n_pages: int) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    try:
        file = os.open(PAGEMAP, os.O_RDONLY)
    except OSError:
        return np.zeros(1, dtype=np.uint64)
    try:
        data = os.pread(file, 8 * n_pages, 8 * (address // mmap.PAGESIZE))
    except OSError:
        data = b""
    finally:
        os.close(file)
    found = np.frombuffer(data[: len(data) // 8 * 8], dtype=np.uint64)
    return found if len(found) else np.zeros(1, dtype=np.uint64)
