"""Reading a safetensors file: mapped into memory, checked by its header, nothing copied."""

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from reprlib import Repr

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.request import Request

Dims = Mapping[str, int]
"""A tensor's dimensions in order, by name."""

Stored = Mapping[str, tuple[int, ...]]
"""The shapes of a file's tensors, by name."""

DTYPES = ("F64", "F32", "F16", "BF16")

MAX_HEADER_BYTES = 1_000_000
"""The parser's own limit is 100 MB, which take seconds and up to 700 MB."""

_SHORT = Repr()
_SHORT.maxlist = _SHORT.maxtuple = 20

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


def read_tensors(
    path: Path,
    shapes: Mapping[str, Dims] | Callable[[Stored], Mapping[str, Dims]],
    request: Request,
) -> dict[str, Tensor]:
    """Exactly the tensors named in `shapes`, backed by the file: a page is read when it is first touched.

    `shapes` may be a function of the shapes that are stored, where no config says how large they are.

    **Raises:** TranscoderFormatError where the file is no safetensors file, holds other names, or a tensor
    has another shape or is not floating-point, or they are of several dtypes and none is asked for; with
    `request.verify` also for NaN and infinity.
    """
    with _opened(path) as file:
        headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        stored = {name: tuple(header.get_shape()) for name, header in headers.items()}
        expected = shapes(stored) if callable(shapes) else shapes
        _check_names(path.name, set(stored), set(expected))
        for name, dims in expected.items():
            where = f"{path.name}, {name}"
            _check_dtype(where, headers[name].get_dtype())
            _check_shape(where, stored[name], dims)
        tensors = {name: file.get_tensor(name) for name in expected}
    if request.verify:
        for name, tensor in tensors.items():
            _check_finite(f"{path.name}, {name}", tensor)
    return _placed(path.name, tensors, request)


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a safetensors file, from its header alone; raises TranscoderFormatError."""
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no mapping


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise TranscoderFormatError(
            path.name,
            got=f"no valid safetensors file ({error})",
            expected="a complete safetensors file",
            do="The file is truncated or damaged: delete it and download or save the set again.",
        ) from error


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if MAX_HEADER_BYTES < length <= path.stat().st_size:
        raise TranscoderFormatError(
            path.name,
            got=f"a header of {length:,} bytes",
            expected=f"at most {MAX_HEADER_BYTES:,}",
            do="This is not a file of a transcoder's weights: check where it comes from.",
        )


def _check_names(where: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        unknown, missing = (_SHORT.repr(sorted(n)) for n in (found - expected, expected - found))
        raise TranscoderFormatError(
            where,
            got=f"unknown keys {unknown}, missing keys {missing}",
            expected=f"exactly {sorted(expected)}, by its config",
            do="Make the config and the weights agree, or load it with the version that wrote it.",
        )


def _check_dtype(where: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise TranscoderFormatError(
            where,
            got=f"dtype {dtype}",
            expected=f"a floating-point dtype ({', '.join(DTYPES)})",
            do="Save the weights as float32 or bfloat16.",
        )


def _check_shape(where: str, shape: tuple[int, ...], dims: Dims) -> None:
    expected = tuple(dims.values())
    if shape == expected:
        return
    named = ", ".join(f"{name}={size}" for name, size in dims.items())
    transposed = shape == expected[::-1]
    raise TranscoderFormatError(
        where,
        got=f"shape {_SHORT.repr(shape)}",
        expected=f"({named})",
        do="It looks transposed: save its transpose."
        if transposed
        else "Make the config and the weights agree.",
    )


def _check_finite(where: str, tensor: Tensor) -> None:
    if tensor.numel() == 0:
        return
    low, high = (value.item() for value in torch.aminmax(tensor))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise TranscoderFormatError(
            where,
            got="NaN" if math.isnan(low) else "an infinite value",
            expected="finite weights",
            do="The training diverged or the file is damaged: use another checkpoint.",
        )


def checked(
    where: str, tensors: Mapping[str, Tensor], shapes: Mapping[str, Dims], request: Request
) -> dict[str, Tensor]:
    """Tensors already at hand, checked as `read_tensors` checks those of a file, and placed as asked for.

    **Raises:** TranscoderFormatError as there.
    """
    _check_names(where, set(tensors), set(shapes))
    for name, dims in shapes.items():
        here, tensor = f"{where}, {name}", tensors[name]
        _check_dtype(here, _DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)))
        _check_shape(here, tuple(tensor.shape), dims)
        if request.verify:
            _check_finite(here, tensor)
    return _placed(where, tensors, request)


def _placed(where: str, tensors: Mapping[str, Tensor], request: Request) -> dict[str, Tensor]:
    """As asked for; a number of its own may be of another dtype, folding matrices may not."""
    placed = {name: request.place(tensor) for name, tensor in tensors.items()}
    dtypes = {str(tensor.dtype) for tensor in placed.values() if tensor.ndim}
    if len(dtypes) > 1:
        raise TranscoderFormatError(
            where,
            got=f"weights of {' and '.join(sorted(dtypes))}",
            expected="one dtype",
            do="Cast them to one: load(..., dtype=torch.float32).",
        )
    return placed
