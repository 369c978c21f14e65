"""What a load does besides loading: files opened, programs run, memory taken."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub import load

MAX_BYTES = 50 * 2**20

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_ACTS = re.compile(
    r"os\.(?!listdir|scandir|walk|fwalk).*|subprocess\..*|socket\..*|exec|compile|import|ctypes\..*|shutil\..*"
)
_watched: list[list[tuple[str, tuple[object, ...]]]] = []


def _record(event: str, arguments: tuple[object, ...]) -> None:
    for events in _watched:
        if event == "open" or _ACTS.fullmatch(event):
            events.append((event, arguments))


sys.addaudithook(_record)  # a hook cannot be taken away; without a watcher it does nothing


def refused(folder: Path, **options: object) -> TranscoderFormatError:
    """The error of loading `folder`, which opened nothing outside it, ran nothing, and took at most 50 MB."""
    with watched(folder), pytest.raises(TranscoderFormatError) as caught:
        load(folder, **options)
    return caught.value


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Fail where the block does more than read files of `folder` with at most 50 MB."""
    events: list[tuple[str, tuple[object, ...]]] = []
    before = _memory("VmRSS", reset=True)
    _watched.append(events)
    try:
        yield
    finally:
        _watched.remove(events)
    taken = _memory("VmHWM") - before
    assert taken <= MAX_BYTES, f"{taken:,} bytes"
    acts = [event for event in events if not _is_reading(event, folder)]
    assert not acts, acts


def _is_reading(event: tuple[str, tuple[object, ...]], folder: Path) -> bool:
    name, arguments = event
    if name != "open" or not isinstance(arguments[0], str | os.PathLike):
        return False
    write = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return Path(arguments[0]).is_relative_to(folder) and not write


def _memory(field: str, *, reset: bool = False) -> int:
    """Resident memory now (VmRSS) or at its peak (VmHWM), from Linux; 0 elsewhere."""
    if not _CLEAR.exists():
        return 0
    if reset:
        _CLEAR.write_text("5")
    found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    assert found
    return int(found[1]) * 1024
