"""Archives that lie about what is in them: of torch.save and of numpy.savez."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import pytest

from tests.hub.hostile.pickles import FILE, PROTO, STOP, tensor, write
from tests.hub.hostile.watch import refused
from tests.hub.published import gemma_scope
from tl_transcoders.hub.archive import read_directory
from tl_transcoders.hub.npz import read_npz

NPZ = "layer_0/width_16k/average_l0_76/params.npz"
GIGABYTE = 2**30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return gemma_scope.write(tmp_path)


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def header(text: str, *, version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    """The start of an .npy file that says this."""
    size = len(text) if length is None else length
    width = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, size) + text.encode()


def says(descr: str = "<f4", order: object = False, shape: str = "(5,)") -> bytes:
    return header(f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n")


class Payload:
    """What pickle would run."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


ARRAYS = {
    "objects": npy(np.array([Payload()], dtype=object), allow_pickle=True),
    "records": npy(np.zeros(5, [("a", "<f4"), ("b", "O")]), allow_pickle=True),
    "text": npy(np.array(["a"] * 5)),
    "a shape of a terabyte": says(shape=f"({2**38},)") + bytes(20),
    "a shape that overflows": says(shape="(999999999999, 999999999999)") + bytes(20),
    "a shape that is negative": says(shape="(-5,)") + bytes(20),
    "a shape of 64 dimensions": says(shape="(" + "1, " * 64 + ")") + bytes(4),
    "a shape of nothing with content": says(shape="(0,)") + bytes(20),
    "fewer elements than the shape": says() + bytes(19),
    "more elements than the shape": says() + bytes(21),
    "void": says("|V4") + bytes(20),
    "a datetime": says("<M8[ns]") + bytes(40),
    "an expression": header("__import__('os').system('touch canary')\n"),
    "a nested expression": header("(" * 900 + "\n"),
    "unary signs": header(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "-" * 800 + "5,), }\n"
    ),
    "a header of four gigabytes": header("x", version=b"\x02\x00", length=2**32 - 1),
    "a header beyond the end": header("x", length=60_000),
    "a header of 60 kB": header(" " * 60_000),
    "an unknown version": header("x", version=b"\x09\x00"),
    "no header": b"\x93NUMPY",
    "nothing": b"",
    "a pickle": PROTO + b"N" + STOP,
}


@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS.keys())
def test_an_array_that_is_none(folder: Path, content: bytes) -> None:
    with ZipFile(folder / NPZ, "w") as archive:
        for name, array in gemma_scope.arrays(0).items():
            archive.writestr(f"{name}.npy", content if name == "b_dec" else npy(array))
    assert refused(folder).where.startswith("params.npz")


def test_an_array_of_a_later_version_is_read(tmp_path: Path) -> None:
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }\n"
    with ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(
            "a.npy", header(text, version=b"\x02\x00") + np.arange(5, dtype="<f4").tobytes()
        )
    assert read_npz(tmp_path / "a.npz")["a"].tolist() == [0, 1, 2, 3, 4]


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def in_directory(data: bytes, offset: int, value: bytes) -> bytes:
    """Change the first entry of the directory, which is what a reader believes."""
    at = data.index(b"PK\1\2") + offset
    return data[:at] + value + data[at + len(value) :]


def at_end(data: bytes, offset: int, value: bytes) -> bytes:
    """Change the record at the end, which says where the directory is."""
    at = data.rindex(b"PK\5\6") + offset
    return data[:at] + value + data[at + len(value) :]


def four(value: int) -> bytes:
    return struct.pack("<I", value)


LIES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "one byte": lambda data: data[:1],
    "half": lambda data: data[: len(data) // 2],
    "all but one byte": lambda data: data[:-1],
    "a size of four gigabytes": lambda data: in_directory(data, 20, four(2**32 - 2) * 2),
    "two sizes": lambda data: in_directory(data, 24, four(7)),
    "a size that needs zip64": lambda data: in_directory(data, 20, four(2**32 - 1) * 2),
    "another method": lambda data: in_directory(data, 10, b"\x63\x00"),
    "encrypted": lambda data: in_directory(data, 8, b"\x01\x00"),
    "a version from the future": lambda data: in_directory(data, 6, b"\xff\x00"),
    "a member elsewhere": lambda data: in_directory(data, 42, four(1)),
    "a member beyond the end": lambda data: in_directory(data, 42, four(2**31)),
    "a name of 60 kB": lambda data: in_directory(data, 28, b"\xff\xff"),
    "another signature": lambda data: in_directory(data, 0, b"XX"),
    "a directory of four gigabytes": lambda data: at_end(data, 12, four(2**32 - 2)),
    "a directory beyond the end": lambda data: at_end(data, 16, four(2**31)),
    "a directory in zip64": lambda data: at_end(data, 12, four(2**32 - 1) * 2),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_an_npz_that_lies(folder: Path, lie: Callable[[bytes], bytes]) -> None:
    edit(folder / NPZ, lie)
    refused(folder)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_torch_file_that_lies(tmp_path: Path, lie: Callable[[bytes], bytes]) -> None:
    folder = write(tmp_path / "set", PROTO + tensor() + STOP)
    edit(folder / FILE, lie)
    refused(folder)


def _bomb(path: Path, name: str) -> None:
    """An archive that is small on disk and declares 64 MB of zeros."""
    with ZipFile(path, "w", ZIP_DEFLATED) as archive, archive.open(name, "w") as member:
        for _ in range(64):
            member.write(bytes(2**20))


def test_a_bomb(folder: Path, tmp_path: Path) -> None:
    _bomb(folder / NPZ, "W_enc.npy")
    assert refused(folder).got == "a compressed member"
    bombed = write(tmp_path / "set", b"")
    _bomb(bombed / FILE, "archive/data.pkl")
    assert refused(bombed).got == "a compressed member"


def test_a_sparse_file_of_a_terabyte(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", b"")
    with (folder / FILE).open("r+b") as file:
        file.truncate(1024 * GIGABYTE)
    refused(folder)


def test_a_directory_of_a_million_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", b"")
    entry = ZipInfo("a")
    directory = struct.pack(
        "<4s4B4H3I5H2I", b"PK\1\2", 20, 3, 20, 0, 0, ZIP_STORED, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0
    )
    count = 1_000_000
    end = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, 47 * count, 30, 0
    )
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 0, 0)
    (folder / FILE).write_bytes(local + (directory + entry.filename.encode()) * count + end)
    assert "directory of 47,000,000 bytes" in refused(folder).got


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_members_of_one_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", PROTO + b"N" + STOP, more={"archive/data/0": b"x"})
    assert refused(folder).got == "two members of one name"


def test_names_that_leave_are_only_names(tmp_path: Path) -> None:
    more = {"../../escaped": b"x", "/absolute": b"x"}
    folder = write(tmp_path / "set", PROTO + b"N" + STOP, more=more)
    assert refused(folder).got == "other content"
    assert not (tmp_path / "escaped").exists()


def test_a_large_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zipfile.ZIP64_LIMIT", 10)
    monkeypatch.setattr("zipfile.ZIP_FILECOUNT_LIMIT", 0)
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", bytes(100))
    monkeypatch.undo()
    assert read_directory(tmp_path / "a.zip")["a"].size == 100


@pytest.mark.parametrize(
    "content", [b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", b"GIF89a", b"PK", b""]
)
def test_a_torch_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path / "set", b"")
    (folder / FILE).write_bytes(content)
    assert refused(folder).got == "no zip archive"


@pytest.mark.parametrize("place", ["folder", "file"])
def test_a_link_that_leaves_the_folder(tmp_path: Path, place: str) -> None:
    folder = write(tmp_path / "set", PROTO + b"N" + STOP)
    target = tmp_path / "elsewhere"
    (folder / FILE).rename(target)
    if place == "file":
        (folder / FILE).symlink_to(target)
    else:
        (folder / FILE).mkdir()
    refused(folder)
