"""One known public set of transcoders, and a table of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, final, overload

from tl_transcoders._types import Site

Structure = Literal["transcoder", "skip transcoder", "cross-layer transcoder"]

COLUMNS = ("name", "repository", "model", "kind", "layers", "width", "L0", "tap", "licence")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A public set, under the name that `load` understands.

    **Arguments:**

    - `repo`, `revision`: the hub repository, and the commit that `load` reads where one is pinned.
    - `model`: the model it was trained on.
    - `layers`: the layers it covers.
    - `kinds`, `widths`, `l0s`: what there is to choose from by `load`'s arguments of these names; the first is
      what `load` takes by itself. A single width is not a choice.
    - `read`, `write`, `folded`: its tap, as in TranscoderConfig; None where the set's own config says it.
    - `format`: the layout of its files.
    """

    name: str
    repo: str
    model: str
    structure: Structure
    layers: tuple[int, ...]
    format: str
    kinds: tuple[str, ...] = ()
    widths: tuple[str, ...] = ()
    l0s: tuple[str, ...] = ()
    read: Site | None = None
    write: Site | None = None
    folded: bool = False
    licence: str = "see the model card"
    revision: str | None = None
    note: str = ""

    @property
    def tap(self) -> str:
        """Where it reads and writes, and on which kind of model it was trained."""
        if self.read is None:
            return "as its config says"
        return f"{self.read} → {self.write}{' (processed)' if self.folded else ''}"

    def cells(self) -> tuple[str, ...]:
        """One text for each of `COLUMNS`."""
        pinned = self.repo if self.revision is None else f"{self.repo}@{self.revision[:7]}"
        layers, choices = _span(self.layers), (", ".join(self.widths), ", ".join(self.l0s))
        kind = f"{self.structure} ({', '.join(self.kinds)})" if self.kinds else self.structure
        return (self.name, pinned, self.model, kind, layers, *choices, self.tap, self.licence)


@final
class Releases(Sequence[Release]):
    """Known public sets as a sequence that prints as a table."""

    def __init__(self, releases: Iterable[Release]) -> None:
        self._releases = tuple(releases)

    @overload
    def __getitem__(self, index: int) -> Release: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Release]: ...
    def __getitem__(self, index: int | slice) -> Release | Sequence[Release]:
        return self._releases[index]

    def __len__(self) -> int:
        return len(self._releases)

    def __str__(self) -> str:
        rows = [COLUMNS, *(release.cells() for release in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def __rich__(self) -> object:
        # rich draws random numbers when it is imported, and importing this package changes nothing.
        from tl_transcoders.hub.release_table import release_table

        return release_table(self)


def _span(layers: tuple[int, ...]) -> str:
    if layers == tuple(range(layers[0], layers[-1] + 1)) and len(layers) > 1:
        return f"{layers[0]}–{layers[-1]}"
    return ", ".join(map(str, layers))
