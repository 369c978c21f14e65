"""`releases`: the public sets that `load` knows by name."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import final

from tl_transcoders.hub.known_releases import RELEASES
from tl_transcoders.hub.release import Release, Releases


def releases(model: str | None = None) -> Releases:
    """The known public sets: name, repository, model, layers, choices of width and L0, tap, licence.

    A list to begin from, not a limit: `load` reads any repository of a known format. Licences are those the
    sets' own pages state where we know them, and are theirs to state.

    **Arguments:** `model`, part of a model's name, in any case; all sets where left out.

    ```python
    print(tlt.releases("gpt2"))
    transcoders = tlt.load("gpt2-dunefsky", layers=[5])
    ```
    """
    wanted = "" if model is None else model.lower()
    return Releases(release for release in RELEASES if wanted in release.model.lower())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where to read, and which set."""

    source: str | Path
    revision: str | None
    width: str | None
    l0: str | int | None
    kind: str | None


def resolve_name(asked: Choice) -> Choice:
    """What a release's name stands for, with its defaults where nothing was chosen; anything else unchanged.

    An existing folder of that name wins.
    """
    if isinstance(asked.source, Path) or Path(asked.source).exists():
        return asked
    name, at, pinned = asked.source.partition("@")
    release = next((release for release in RELEASES if release.name == name), None)
    return asked if release is None else _of_release(release, asked, f"{at}{pinned}")


def similar_names(text: str) -> list[str]:
    """Up to three names of releases that are spelt nearly so, or whose model has this name."""
    of_model = [release.name for release in RELEASES if release.model.partition("/")[2] == text]
    close = get_close_matches(text, [release.name for release in RELEASES], cutoff=0.8)
    return (of_model or close)[:3]


def _of_release(release: Release, asked: Choice, at_revision: str) -> Choice:
    unpinned = asked.revision is None and not at_revision
    several_widths = release.widths if len(release.widths) > 1 else ()
    return Choice(
        source=f"{release.repo}{at_revision}",
        revision=release.revision if unpinned else asked.revision,
        width=_first(asked.width, several_widths),
        l0=str(asked.l0) if asked.l0 is not None else _first(None, release.l0s),
        kind=_first(asked.kind, release.kinds),
    )


def _first(asked: str | None, choices: tuple[str, ...]) -> str | None:
    return asked if asked is not None or not choices else choices[0]
