"""Files of `torch.save`, read without running anything in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.archive import Member, read_directory, read_member
from tl_transcoders.hub.storage import Storage, StridesError, map_elements
from tl_transcoders.hub.unpickle import Global, unpickle

MAX_PICKLE_BYTES = 100_000

_PICKLE = "/data.pkl"
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_torch(path: Path) -> object:
    """What was saved: tensors mapped from the file, plain data, and records of other objects.

    **Raises:** TranscoderFormatError where the file is no zip archive of torch.save, or its pickle says
    anything else.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"PK\3\4":
        raise TranscoderFormatError(
            path.name,
            got="no zip archive",
            expected="a file of torch.save since 1.6",
            do="An older or truncated file: where you trust it, load it with torch and save it again.",
        )
    members = read_directory(path)
    folder = _folder(path.name, members)
    _check_byte_order(path, members.get(f"{folder}/byteorder"))
    pickle = read_member(path, members[folder + _PICKLE], MAX_PICKLE_BYTES)
    return unpickle(pickle, f"{path.name}, data.pkl", _Storages(path, folder, members))


def only_tensors(where: str, state: Mapping[object, object]) -> dict[str, Tensor]:
    """A state dict, after checking that it holds tensors by name and nothing else."""
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if len(tensors) < len(state):
        raise TranscoderFormatError(
            where,
            got="other values among the weights",
            expected="tensors by name",
            do="Save the module's state_dict() and nothing else.",
        )
    return tensors


@final
class _Storages:
    """The storages of one file, each mapped once."""

    def __init__(self, path: Path, folder: str, members: Mapping[str, Member]) -> None:
        self._path, self._folder, self._members = path, folder, members
        self._mapped: dict[str, tuple[torch.dtype, Storage]] = {}

    def __call__(self, persistent_id: object) -> Storage:
        """The storage that `("storage", its class, its key, a device, its length)` stands for."""
        match persistent_id:
            case ("storage", Global("torch", kind), str(key), str(), int(length)):
                member = self._members.get(f"{self._folder}/data/{key}")
            case _:
                raise StridesError("a persistent id that is no storage")
        dtype = _DTYPES.get(kind)
        if dtype is None or member is None or length * dtype.itemsize != member.size:
            raise StridesError(f"a {kind} of {length:,} elements that the file does not hold")
        if key not in self._mapped:
            self._mapped[key] = dtype, Storage(map_elements(self._path, member, dtype))
        first, mapped = self._mapped[key]
        if dtype is not first:
            raise StridesError(f"storage {key[:60]!r} as {first} and as {dtype}")
        return mapped


def _folder(where: str, members: Mapping[str, Member]) -> str:
    folders = [name.removesuffix(_PICKLE) for name in members if name.endswith(_PICKLE)]
    if len(folders) != 1:
        raise TranscoderFormatError(
            where,
            got=f"{len(folders)} files data.pkl",
            expected="one, as torch.save writes it",
            do="This is not a file of weights, or it is damaged: download or save it again.",
        )
    return folders[0]


def _check_byte_order(path: Path, member: Member | None) -> None:
    order = b"little" if member is None else read_member(path, member, 10)
    if order != b"little":
        raise TranscoderFormatError(
            f"{path.name}, byteorder",
            got=repr(order),
            expected="little",
            do="Load it on the machine that wrote it, and save it as safetensors.",
        )
