"""What the local hub stores: repositories as commits of whole file trees."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

Files = dict[str, bytes]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Repository:
    """Commits by sha, and branches that point to them."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    private: bool = False

    def commit(self, files: Files, *, branch: str = "main") -> str:
        """Make these the files of a branch, and return the new commit's sha."""
        names = "".join(f"{name}{digest(data)}" for name, data in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}{names}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """The sha of a branch or of a commit."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Faults:
    """What goes wrong on purpose, by the path of a file."""

    cut: dict[str, int] = field(default_factory=dict)
    """Close the connection once after so many bytes."""

    short: set[str] = field(default_factory=set)
    """Send half of the file as if it were the whole."""

    down: bool = False
    """Answer every request with HTTP 503."""


@dataclass
class Hub:
    """All repositories, the large files by digest, and a log of requests."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: Files = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: list[str] = field(default_factory=list)
    """`METHOD path`, with ` bytes=…` behind where a range was asked for."""

    def publish(self, repo_id: str, folder: Path, *, branch: str = "main") -> str:
        """Commit the files of a folder, and return the sha."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        self.blobs |= {digest(data): data for data in files.values()}
        return self.repositories.setdefault(repo_id, Repository()).commit(files, branch=branch)

    def downloads(self) -> set[str]:
        """The names of the files whose content was sent."""
        paths = (request.split()[1] for request in self.requests if request.startswith("GET "))
        return {p.rpartition("/")[2] for p in paths if "/resolve/" in p or p.startswith("/store/")}
