"""Untrusted files: their names, sizes and digests are checked before their content is used."""

import hashlib
import json
import os
from pathlib import Path, PurePosixPath

from tl_transcoders.errors import ConfigError, TranscoderFormatError

MAX_JSON_BYTES = 1_000_000


def check_named(path: object, where: str) -> None:
    """Raise ConfigError unless `path` is a Path or a text."""
    if not isinstance(path, str | Path):
        raise ConfigError(
            where, got=repr(path), expected="a path or a name", do="Give a str or pathlib.Path."
        )


def contained(root: Path, name: str) -> Path:
    """The file `name` under `root`; raises TranscoderFormatError where it leaves `root` or is not there.

    Symlinks may not leave `root` either, except that a snapshot of the hub's cache links to the blobs of its
    repository.
    """
    parts = PurePosixPath(name).parts
    odd = "\\" in name or ":" in name or "\0" in name
    if not parts or odd or name.startswith("/") or ".." in parts:
        raise _leaves(name)
    path = root.joinpath(*parts)
    if not path.is_file():
        raise TranscoderFormatError(
            name,
            got="no such file" if not path.exists() else "something that is not a file",
            expected=f"a file in {root}",
            do="Copy the missing file there, or download the set again.",
        )
    if not any(path.resolve().is_relative_to(folder) for folder in _trusted(root.resolve())):
        raise _leaves(name)
    return path


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in a file of at most 1 MB, which takes up to 30 MB as objects; raises TranscoderFormatError where it is anything else."""
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise TranscoderFormatError(
            path.name,
            got=f"{size:,} bytes",
            expected=f"at most {MAX_JSON_BYTES:,}",
            do="This is not the index of a set of transcoders: check where it comes from.",
        )
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TranscoderFormatError(
            path.name,
            got=f"no valid JSON ({error})",
            expected="a JSON object",
            do="The file is truncated or was edited: download or save the set again.",
        ) from error
    if not isinstance(data, dict):
        raise TranscoderFormatError(
            path.name,
            got=f"a JSON {type(data).__name__}",
            expected="a JSON object",
            do="Download or save the set again.",
        )
    return data


def check_size(path: Path, size: int) -> None:
    """Raise TranscoderFormatError unless the file has `size` bytes."""
    found = path.stat().st_size
    if found != size:
        raise TranscoderFormatError(
            path.name,
            got=f"{found:,} bytes",
            expected=f"{size:,} bytes",
            do=f"The file is {'truncated' if found < size else 'not the one indexed'}: "
            "delete it and download or save the set again.",
        )


def check_sha256(path: Path, digest: str) -> None:
    """Raise TranscoderFormatError unless the file's content has this SHA-256."""
    found = sha256(path)
    if found != digest:
        raise TranscoderFormatError(
            path.name,
            got=f"SHA-256 {found}",
            expected=digest,
            do="The file was changed or damaged: delete it and download or save the set again.",
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file is on the disk, so that a full disk shows now and not at write-back."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _leaves(name: str) -> TranscoderFormatError:
    return TranscoderFormatError(
        repr(name),
        got="a file name that leaves the folder",
        expected="a plain relative name",
        do="Do not trust this set: ask where it comes from.",
    )


def _trusted(root: Path) -> tuple[Path, ...]:
    in_cache = root.parent.name == "snapshots" and root.parents[1].name.startswith("models--")
    return (root, root.parents[1] / "blobs") if in_cache else (root,)
