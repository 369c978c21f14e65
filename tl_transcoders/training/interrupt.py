"""Ctrl-C that waits for the end of a step."""

import signal
import threading
from types import FrameType
from typing import Any, Self, final


@final
class DeferredInterrupt:
    """A context in which the first SIGINT only sets `pending`, so that no step is left half done.

    A second one interrupts at once. Outside the main thread, which alone receives signals, nothing changes.

    ```python
    with DeferredInterrupt() as interrupt:
        for step in range(3):
            if interrupt.pending:
                raise KeyboardInterrupt
    ```
    """

    def __init__(self) -> None:
        self.pending = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.pending = True
        self._restore()

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
