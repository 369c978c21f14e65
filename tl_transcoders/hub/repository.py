"""A repository on the hub at one commit, read through the huggingface_hub client.

Tokens, the cache (HF_HOME), the address (HF_ENDPOINT) and offline mode are the client's business.
"""

from collections.abc import Collection, Iterable, Iterator, Set
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Self, final

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.hf_api import RepoFile

from tl_transcoders.hub.announce import announce
from tl_transcoders.hub.client_errors import translated
from tl_transcoders.hub.source import AbstractSource, names_below


@final
@dataclass(frozen=True, slots=True)
class Repository(AbstractSource):
    """A snapshot in the client's cache: `revision` is the commit's sha, `root` the snapshot's folder."""

    repo_id: str
    commit: str
    snapshot: Path

    @classmethod
    def open(cls, repo_id: str, *, revision: str | None, patterns: Iterable[str]) -> Self:
        """Resolve `revision` to a commit and fetch the files that match `patterns`; raises HubError."""
        with translated(repo_id if revision is None else f"{repo_id}@{revision}"):
            snapshot = snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns))
        return cls(repo_id, Path(snapshot).name, Path(snapshot))

    @property
    def name(self) -> str:
        """`org/repo`."""
        return self.repo_id

    @property
    def revision(self) -> str:
        """The commit's sha."""
        return self.commit

    @property
    def root(self) -> Path:
        """The snapshot's folder in the cache."""
        return self.snapshot

    def listings(self) -> Iterator[frozenset[str]]:
        """What is in the cache, then the listing of the hub; raises HubError where that cannot be had."""
        if self.snapshot.is_dir():
            yield names_below(self.snapshot)
        with translated(str(self)):
            yield frozenset(HfApi().list_repo_files(self.repo_id, revision=self.commit))

    def fetch(self, names: Collection[str]) -> None:
        """Download those of `names` that are not in the cache, after saying how much that is; raises HubError."""
        missing = {name for name in names if not (self.snapshot / name).is_file()}
        if not missing:
            return
        with translated(str(self)):
            announce(str(self), self._sizes(missing), self.snapshot)
            patterns = [escape(name) for name in sorted(missing)]
            snapshot_download(self.repo_id, revision=self.commit, allow_patterns=patterns)

    def _sizes(self, names: Set[str]) -> list[int]:
        tree = HfApi().list_repo_tree(self.repo_id, recursive=True, revision=self.commit)
        return [entry.size for entry in tree if isinstance(entry, RepoFile) and entry.path in names]
