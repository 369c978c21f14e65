"""Telling a folder from a repository."""

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from tl_transcoders.errors import HubError
from tl_transcoders.hub.releases import similar_names
from tl_transcoders.hub.repository import Repository
from tl_transcoders.hub.source import AbstractSource, Folder


def open_source(
    source: str | Path, *, revision: str | None, patterns: Iterable[str]
) -> AbstractSource:
    """The folder or repository that `source` names; a folder that exists wins.

    **Arguments:** `source`, a path or `org/repo` with an optional `@revision`; `patterns`, the small files
    to fetch at once.

    **Raises:** HubError where it is neither, or cannot be reached.
    """
    if isinstance(source, Path) or (source and Path(source).exists()):
        _refuse_revision(str(source), revision)
        return Folder(Path(source))
    repo_id, at, pinned = source.partition("@")
    if not is_repo_id(repo_id):
        raise _neither(source)
    if at:
        revision = _one_revision(source, pinned, revision)
    return Repository.open(repo_id, revision=revision, patterns=patterns)


def is_repo_id(name: str) -> bool:
    """Whether `name` has the form `org/repo`."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _neither(source: str) -> HubError:
    similar = similar_names(source)
    return HubError(
        repr(source),
        got="neither an existing folder nor the name of a repository or a known release",
        expected='a folder, "org/repo" with an optional "@revision", or a name from tl_transcoders.releases()',
        do=f"Did you mean {' or '.join(map(repr, similar))}?"
        if similar
        else "Check the path or the spelling.",
    )


def _refuse_revision(folder: str, revision: str | None) -> None:
    if revision is not None:
        raise HubError(
            folder,
            got=f"revision={revision!r} for a folder on disk",
            expected="no revision",
            do="Leave revision out; only repositories have revisions.",
        )


def _one_revision(source: str, pinned: str, revision: str | None) -> str:
    if not pinned or revision not in (None, pinned):
        raise HubError(
            repr(source),
            got=f"the revisions {pinned!r} (after @) and {revision!r}",
            expected="one revision",
            do="Name it once, after @ or as revision=.",
        )
    return pinned
