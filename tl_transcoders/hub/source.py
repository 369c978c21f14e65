"""Where transcoders are read from: a folder on disk, or a repository on the hub."""

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tl_transcoders.errors import HubError

MAX_NAMES = 100_000


class AbstractSource(ABC):
    """Files under one root, of which only those fetched need be on disk."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The place as the user named it, without the revision."""

    @property
    @abstractmethod
    def revision(self) -> str | None:
        """The commit the files belong to; None for a folder."""

    @property
    @abstractmethod
    def root(self) -> Path:
        """The folder on disk that holds what has been fetched."""

    @abstractmethod
    def listings(self) -> Iterator[frozenset[str]]:
        """The names of its files, relative to the root, with `/` between folders.

        First those on disk, then, where that is not all, everything.
        """

    @abstractmethod
    def fetch(self, names: Collection[str]) -> None:
        """Bring these files under the root; names it does not hold are left to the reader to miss."""

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


@final
@dataclass(frozen=True, slots=True)
class Folder(AbstractSource):
    """A folder on disk; nothing needs fetching.

    **Raises:** HubError where `path` is not a folder.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise HubError(
                str(self.path),
                got="a file" if self.path.exists() else "nothing at this path",
                expected="a folder of transcoders",
                do="Give the folder that was passed to save.",
            )

    @property
    def name(self) -> str:
        """The path as given."""
        return str(self.path)

    @property
    def revision(self) -> None:
        """A folder has no revision."""
        return

    @property
    def root(self) -> Path:
        """The folder itself."""
        return self.path

    def listings(self) -> Iterator[frozenset[str]]:
        """What is on disk."""
        yield names_below(self.path)

    def fetch(self, names: Collection[str]) -> None:
        """Nothing to do."""


def names_below(folder: Path) -> frozenset[str]:
    """Names of files relative to `folder`: its own first, then those below, at most `MAX_NAMES`."""
    names: list[str] = []
    for parent, _, files in os.walk(folder):
        below = Path(parent).relative_to(folder)
        names += [(below / name).as_posix() for name in files if Path(parent, name).is_file()]
        if len(names) >= MAX_NAMES:
            break
    return frozenset(names[:MAX_NAMES])
