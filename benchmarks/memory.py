"""The most memory a process holds while something runs."""

import ctypes
import gc
from pathlib import Path
from types import TracebackType
from typing import Self

STATUS, REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """`with Peak() as peak:` then `peak.megabytes`: the most that was resident inside, beyond what was before.

    The kernel keeps the largest value (VmHWM) since it was last cleared; memory that was freed before is given
    back to it first, so that using it again counts.
    """

    megabytes = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        REFS.write_text("5")
        self._before = _read("VmRSS")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.megabytes = _read("VmHWM") - self._before


def _read(name: str) -> float:
    (line,) = (text for text in STATUS.read_text().splitlines() if text.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
