"""The directory of a zip archive whose members are stored as they are: checked before anything is read.

A stored member is a stretch of the file, so what an archive can make us read is never more than the file.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from tl_transcoders.errors import TranscoderFormatError

MAX_DIRECTORY_BYTES = 200_000

_LOCAL_HEADER = struct.Struct("<4s22x2H")
_ENCRYPTED = 0x1
_MALFORMED = (BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error)


@final
@dataclass(frozen=True, slots=True)
class Member:
    """A stretch of the archive's file."""

    name: str
    start: int
    size: int


def read_directory(path: Path) -> dict[str, Member]:
    """The members of the archive by name.

    **Raises:** TranscoderFormatError where the file is no zip archive, its directory is over 200 kB, or a
    member is compressed, encrypted, there twice, or outside the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            with ZipFile(_Bounded(file, size)) as archive:
                entries = archive.infolist()
            members = [_member(path.name, entry, file, size) for entry in entries]
        except TranscoderFormatError:
            raise
        except _MALFORMED as error:
            raise TranscoderFormatError(
                path.name,
                got=f"no valid zip archive ({error})",
                expected="a complete archive of at most 200 kB of file names",
                do="The file is truncated or damaged: delete it and download or save the set again.",
            ) from error
    named = {member.name: member for member in members}
    if len(named) < len(members):
        raise _odd(path.name, "two members of one name", "each once")
    return named


def read_member(path: Path, member: Member, limit: int) -> bytes:
    """The content of a member of at most `limit` bytes; raises TranscoderFormatError where it is larger."""
    if member.size > limit:
        raise _odd(
            f"{path.name}, {member.name}", f"{member.size:,} bytes", f"at most {limit:,} bytes"
        )
    with path.open("rb") as file:
        file.seek(member.start)
        return file.read(member.size)


def _member(where: str, entry: ZipInfo, file: BinaryIO, size: int) -> Member:
    where = f"{where}, {entry.filename!r}"
    if entry.compress_type != ZIP_STORED or entry.compress_size != entry.file_size:
        raise _odd(where, "a compressed member", "members stored as they are")
    if entry.flag_bits & _ENCRYPTED:
        raise _odd(where, "an encrypted member", "members stored as they are")
    if entry.header_offset < 0:
        raise _odd(where, "a member that lies outside the file", "one inside it")
    file.seek(entry.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = entry.header_offset + _LOCAL_HEADER.size + name + extra
    if signature != b"PK\3\4" or start + entry.file_size > size:
        raise _odd(where, "a member that lies outside the file", "one inside it")
    return Member(entry.filename, start, entry.file_size)


def _odd(where: str, got: str, expected: str) -> TranscoderFormatError:
    do = "Save the weights again with torch.save or numpy.savez, or as safetensors."
    return TranscoderFormatError(where, got=got, expected=expected, do=do)


@final
class _Bounded:
    """As much of a file as `ZipFile` needs, except that it never reads much at once."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def read(self, size: int = -1) -> bytes:
        wanted = self._size - self._file.tell() if size < 0 else size
        if wanted > MAX_DIRECTORY_BYTES:
            raise BadZipFile(f"a directory of {wanted:,} bytes")
        return self._file.read(wanted)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and not 0 <= offset <= self._size:
            raise BadZipFile(f"a directory at byte {offset:,} of {self._size:,}")
        if whence == 2 and self._size + offset < 0:
            raise BadZipFile(f"{self._size:,} bytes")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True
