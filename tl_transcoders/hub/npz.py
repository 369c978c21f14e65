"""Files of `numpy.savez`: arrays of plain numbers, by their headers, never a pickle."""

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.archive import Member, read_directory, read_member
from tl_transcoders.hub.storage import map_elements

MAX_HEADER_BYTES = 1_000

_DTYPES = {"<f8": torch.float64, "<f4": torch.float32, "<f2": torch.float16}
_HEADER = re.compile(
    r"\{'descr': '([^']{1,20})', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,12}, ?){0,4}(?:\d{1,12})?)\), ?\} *\n"
)
_LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of the file by name; numpy keeps them unaligned, so each is one copy.

    **Raises:** TranscoderFormatError where it is no such file, or an array is not of little-endian
    floating-point numbers, or does not have the size its shape says.
    """
    return {
        name.removesuffix(".npy"): _array(path, member)
        for name, member in read_directory(path).items()
    }


def _array(path: Path, member: Member) -> Tensor:
    where = f"{path.name}, {member.name}"
    dtype, shape, transposed, length = _header(path, member)
    size = math.prod(shape) * dtype.itemsize
    if size != member.size - length:
        raise TranscoderFormatError(
            where,
            got=f"{member.size - length:,} bytes for shape {shape}",
            expected=f"{size:,} bytes",
            do="The file is damaged: download it again.",
        )
    flat = map_elements(path, Member(member.name, member.start + length, size), dtype)
    return (
        flat.view(shape[::-1]).permute(*range(len(shape))[::-1]) if transposed else flat.view(shape)
    )


def _header(path: Path, member: Member) -> tuple[torch.dtype, tuple[int, ...], bool, int]:
    """The dtype, the shape, whether the first index is the fastest, and where the elements begin."""
    start = read_member(path, Member(member.name, member.start, min(member.size, 12)), 12)
    width = _LENGTH_BYTES.get(start[6:8], 0)
    length = int.from_bytes(start[8 : 8 + width], "little")
    text = Member(member.name, member.start + 8 + width, min(length, member.size))
    header = _HEADER.fullmatch(read_member(path, text, MAX_HEADER_BYTES).decode("latin-1"))
    if start[:6] != b"\x93NUMPY" or header is None or header[1] not in _DTYPES:
        raise TranscoderFormatError(
            f"{path.name}, {member.name}",
            got="no array, or one of other things than numbers" if header is None else header[1],
            expected=f"an array of little-endian floating-point numbers ({', '.join(_DTYPES)})",
            do="Do not open it with allow_pickle unless you trust its author.",
        )
    shape = tuple(int(n) for n in header[3].split(",") if n.strip())
    return _DTYPES[header[1]], shape, header[2] == "True", 8 + width + length
