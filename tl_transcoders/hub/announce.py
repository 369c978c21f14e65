"""How much is to be downloaded, said before it is."""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub.utils import are_progress_bars_disabled
from tqdm import tqdm

from tl_transcoders.errors import HubError

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def announce(where: str, sizes: Iterable[int], cache: Path) -> None:
    """Print the number and size of the files to download, where the client's progress bars are not turned off.

    **Raises:** HubError where they do not fit on the disk of `cache`.
    """
    sizes = list(sizes)
    total, free = sum(sizes), shutil.disk_usage(_existing(cache)).free
    if total > free:
        raise HubError(
            where,
            got=f"files of {readable(total)} and {readable(free)} free on the disk",
            expected="room for them in the cache (HF_HOME)",
            do="Free space, move the cache, or name fewer layers: load(..., layers=[…]).",
        )
    if not are_progress_bars_disabled():
        files = "1 file" if len(sizes) == 1 else f"{len(sizes)} files"
        tqdm.write(f"Downloading {files}, {readable(total)}, from {where}", file=sys.stderr)


def readable(size: int | float) -> str:
    """A size in bytes with three digits and a unit."""
    unit = 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
