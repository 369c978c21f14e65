"""Files that lie, written over honest ones."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, full_like, int64

SPARSE_BYTES = 200_000_000


def two_hundred_megabytes(path: Path) -> None:
    """A sparse file: its size is real, the room it takes is not."""
    with path.open("wb") as file:
        file.truncate(SPARSE_BYTES)


def rewrite_header(path: Path, change: Callable[[dict[str, dict]], object]) -> None:
    """Change the header of a safetensors file and leave its data as it is."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def huge_shape(path: Path) -> None:
    rewrite_header(path, lambda header: _first(header).update(shape=[2**40, 2**20]))


def overflowing_shape(path: Path) -> None:
    rewrite_header(path, lambda header: _first(header).update(shape=[2**63, 2**63, 4]))


def negative_shape(path: Path) -> None:
    rewrite_header(path, lambda header: _first(header).update(shape=[-1, 5]))


def overlapping(path: Path) -> None:
    def change(header: dict[str, dict]) -> None:
        names = [name for name in header if name != "__metadata__"]
        for name in names:
            header[name]["data_offsets"] = header[names[0]]["data_offsets"]

    rewrite_header(path, change)


def beyond_the_end(path: Path) -> None:
    rewrite_header(path, lambda header: _first(header).update(data_offsets=[2**40, 2**40 + 220]))


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])


def long_metadata(path: Path) -> None:
    rewrite_header(path, lambda header: header.update(__metadata__={"a": "x" * 60_000_000}))


def many_tensors(path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    rewrite_header(path, lambda header: header.update({f"x{i}": empty for i in range(300_000)}))


def many_names(path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    rewrite_header(path, lambda header: header.update({f"x{i}": empty for i in range(10_000)}))


def many_dimensions(path: Path) -> None:
    rewrite_header(path, lambda header: _first(header)["shape"].extend([1] * 300_000))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_pickle(path: Path) -> None:
    path.write_bytes(b"\x80\x04cos\nsystem\n\x8c\x04trueR.")


def integers(path: Path) -> None:
    _each(path, lambda tensor: tensor.to(int64))


def no_features(path: Path) -> None:
    _each(path, lambda tensor: tensor[:0].contiguous())


def a_missing_key(path: Path) -> None:
    weights = load_file(path)
    weights.popitem()
    save_file(weights, path)


def an_extra_key(path: Path) -> None:
    weights = load_file(path)
    save_file({**weights, "extra": next(iter(weights.values())).clone()}, path)


def not_a_number(path: Path) -> None:
    _each(path, lambda tensor: full_like(tensor, float("nan")))


def infinite(path: Path) -> None:
    _each(path, lambda tensor: full_like(tensor, float("-inf")))


def two_dtypes(path: Path) -> None:
    _each(path, lambda tensor: tensor.half() if tensor.ndim == 2 else tensor)


def transposed(path: Path) -> None:
    _each(path, lambda tensor: tensor.T.contiguous() if tensor.ndim == 2 else tensor)


def _first(header: dict[str, dict]) -> dict:
    return next(entry for name, entry in header.items() if name != "__metadata__")


def _each(path: Path, change: Callable[[Tensor], Tensor]) -> None:
    save_file({name: change(tensor) for name, tensor in load_file(path).items()}, path)


WEIGHTS = (
    huge_shape,
    overflowing_shape,
    negative_shape,
    overlapping,
    beyond_the_end,
    huge_header,
    truncated,
    empty,
    a_pickle,
    integers,
    no_features,
    a_missing_key,
    an_extra_key,
    two_dtypes,
    transposed,
)
"""What no reader may accept of a weight file."""

BOMBS = (long_metadata, many_tensors, many_names, many_dimensions)
"""Headers that are valid, and large."""

NOT_FINITE = (not_a_number, infinite)
"""What `verify=True` must see."""
