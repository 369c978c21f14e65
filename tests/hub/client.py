"""A process that has only ever known one hub: the client reads its environment once, on import."""

import multiprocessing
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest import mock

P = ParamSpec("P")
R = TypeVar("R")


class Client:
    """Runs functions, one after the other, in a fresh interpreter with its own environment."""

    def __init__(self, endpoint: str, home: Path, *, offline: bool = False) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        environment = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_DISABLE_XET": "1",  # large files then go through LFS, which the local hub speaks
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        with mock.patch.dict(os.environ, {**inherited, **environment}, clear=True):
            self._pool.submit(os.getpid).result()  # starts the process

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`function(*args, **kwargs)` over there; warnings are errors, and exceptions come back."""
        return self._pool.submit(_strictly, function, args, kwargs).result()

    def login(self, token: str | None) -> None:
        """Use this token from now on."""
        self._pool.submit(_set_token, token).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _strictly(function: Callable, args: tuple, kwargs: dict) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Use 'content=<...>'")  # of the client's own LFS upload
        return function(*args, **kwargs)


def _set_token(token: str | None) -> None:
    os.environ.pop("HF_TOKEN", None)
    if token is not None:
        os.environ["HF_TOKEN"] = token
