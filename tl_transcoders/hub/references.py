"""Files that a config names: beside it, or in a repository by `hf://org/repo/path?revision=…`."""

import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final
from urllib.parse import parse_qs, unquote, urlsplit

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.files import contained
from tl_transcoders.hub.place import is_repo_id
from tl_transcoders.hub.repository import Repository
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource

SCHEME = "hf://"


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """A file of a repository; `repo_id=None` is the source that names it, `revision=None` its default branch."""

    repo_id: str | None
    revision: str | None
    path: str


def parse_reference(entry: str, folder: str) -> Reference:
    """The file an entry names, relative to `folder` where it is no URI; raises TranscoderFormatError."""
    if not entry.startswith(SCHEME):
        return Reference(None, None, posixpath.join(folder, entry))
    try:
        parts = urlsplit(entry)
        name, _, path = parts.path.lstrip("/").partition("/")
        repo_id = f"{parts.netloc}/{name}"
        revisions = parse_qs(parts.query).get("revision", [None])
    except ValueError:
        repo_id, path, revisions = "", "", [None]
    if not path or not is_repo_id(repo_id):
        raise TranscoderFormatError(
            repr(entry[:200]),
            got="no address of a file in a repository",
            expected="hf://org/repo/path, with an optional ?revision=",
            do="Correct the config.",
        )
    revision = revisions[0]
    if revision is not None and revision.startswith("refs/"):
        raise TranscoderFormatError(
            repr(entry[:200]),
            got=f"the revision {revision[:100]!r}, which may be anybody's proposal",
            expected="a branch, a tag or a commit",
            do="Correct the config.",
        )
    return Reference(repo_id, revision, unquote(path))


@final
@dataclass(frozen=True, slots=True)
class Fetched:
    """The file of every layer on disk, and the repositories besides the source that some came from."""

    paths: Mapping[int, Path]
    others: tuple[str, ...]


def fetch_references(
    references: Mapping[int, Reference], source: AbstractSource, request: Request
) -> Fetched:
    """Bring every layer's file on disk: from `source` itself, or from a repository that `request` trusts.

    **Raises:** TranscoderFormatError for a file of any other repository and for one that serves two layers,
    before anything is fetched.
    """
    own = {
        layer: Reference(None, None, ref.path) if _is_own(ref, source) else ref
        for layer, ref in references.items()
    }
    _refuse_repeated(own, source)
    _refuse_foreign(own.values(), source, request)
    places: dict[tuple[str | None, str | None], AbstractSource] = {(None, None): source}
    for repo_id, revision in {(ref.repo_id, ref.revision) for ref in own.values()}:
        paths = [
            ref.path for ref in own.values() if (ref.repo_id, ref.revision) == (repo_id, revision)
        ]
        if repo_id is None:
            source.fetch(paths)
        else:
            place = Repository.open(repo_id, revision=revision, patterns=[])
            place.fetch(paths)
            places[repo_id, revision] = place
    paths = {
        layer: contained(places[ref.repo_id, ref.revision].root, ref.path)
        for layer, ref in own.items()
    }
    return Fetched(paths, tuple(sorted({str(p) for p in places.values() if p is not source})))


def _is_own(ref: Reference, source: AbstractSource) -> bool:
    return ref.repo_id == source.name and ref.revision in (None, source.revision)


def _refuse_repeated(references: Mapping[int, Reference], source: AbstractSource) -> None:
    layers: dict[Reference, int] = {}
    for layer, ref in references.items():
        first = layers.setdefault(ref, layer)
        if first != layer:
            raise TranscoderFormatError(
                str(source),
                got=f"a config that names {ref.path[:200]!r} for layers {first} and {layer}",
                expected="a file of its own for every layer",
                do="Correct the list in the config.",
            )


def _refuse_foreign(
    references: Collection[Reference], source: AbstractSource, request: Request
) -> None:
    named = {ref.repo_id for ref in references if ref.repo_id not in (None, source.name)}
    foreign = sorted(str(repo_id) for repo_id in named - request.trust)
    if foreign:
        raise TranscoderFormatError(
            str(source),
            got=f"a config that takes files from {', '.join(foreign[:5])}",
            expected="files of its own, or of repositories named in trust=",
            do=f"If you trust them: load(..., trust={foreign[:5]!r}).",
        )
