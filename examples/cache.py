"""Where fetched models and texts are kept, and how they get there without ever being half there."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_root() -> Path:
    """The folder named by `TLT_CACHE`, else `~/.cache/tl_transcoders`."""
    named = os.environ.get("TLT_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tl_transcoders"


def build_once(name: str, build: Callable[[Path, Path], None]) -> Path:
    """Folder `name` of the cache, made by `build(folder, scratch)` on first use.

    It is built beside its place and renamed when complete: an interrupted build leaves nothing behind, and of two
    processes that build at once one wins and the other uses its result.
    """
    target = cache_root() / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        folder, scratch = work / "folder", work / "scratch"
        folder.mkdir()
        scratch.mkdir()
        build(folder, scratch)
        _rename_unless_there(folder, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _rename_unless_there(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise
