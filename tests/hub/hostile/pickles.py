"""Pickles written by hand, opcode by opcode, in an archive as torch.save makes it."""

import struct
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

from tests.hub.published.dunefsky import FEATURES

FILE = f"final_sparse_autoencoder_gpt2-small_blocks.3.ln2.hook_normalized_{FEATURES}.pt"

PROTO, STOP = b"\x80\x02", b"."
REDUCE, NEWOBJ, BUILD, PERSID = b"R", b"\x81", b"b", b"Q"
NO_ARGUMENTS = b")"


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """BININT, or LONG1 where it is larger."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def several(*items: bytes) -> bytes:
    """TUPLE."""
    return b"(" + b"".join(items) + b"t"


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + several(*arguments) + REDUCE


def storage(kind: bytes = name("torch", "FloatStorage"), key: str = "0", length: int = 6) -> bytes:
    return several(text("storage"), kind, text(key), text("cpu"), number(length)) + PERSID


def tensor(
    elements: bytes | None = None,
    offset: int = 0,
    size: tuple[int, ...] = (2, 3),
    stride: tuple[int, ...] = (3, 1),
) -> bytes:
    counts = (several(*map(number, values)) for values in (size, stride))
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        storage() if elements is None else elements,
        number(offset),
        *counts,
        b"\x89",
        call("collections", "OrderedDict"),
    )


def write(folder: Path, body: bytes, *, more: Mapping[str, bytes] | None = None) -> Path:
    """The archive of this pickle and a storage of six floats, in a folder that is taken for Dunefsky's."""
    folder.mkdir(parents=True, exist_ok=True)
    with ZipFile(folder / FILE, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/data/0", struct.pack("<6f", *range(6)))
        for member, content in (more or {}).items():
            archive.writestr(member, content)
    return folder
