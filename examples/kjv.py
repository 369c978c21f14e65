"""The King James Bible out of Debian's `bible-kjv`, which keeps it compressed in a form only its own program reads."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from examples.debian import dependencies, download, unpack

VERSES_PER_PARAGRAPH = 5


def chapters(program_deb: Path, text_deb: Path, scratch: Path) -> Iterator[list[str]]:
    """The paragraphs of one chapter after another, some verses each, without verse numbers."""
    verses: dict[str, list[str]] = {}
    for line in _all_verses(program_deb, text_deb, scratch).splitlines():
        reference, _, verse = line.partition(" ")
        verses.setdefault(reference.partition(":")[0], []).append(verse)
    for chapter in verses.values():
        starts = range(0, len(chapter), VERSES_PER_PARAGRAPH)
        yield [" ".join(chapter[start : start + VERSES_PER_PARAGRAPH]) for start in starts]


def _all_verses(program_deb: Path, text_deb: Path, scratch: Path) -> str:
    root = unpack(text_deb, unpack(program_deb, scratch / "kjv"))
    return subprocess.run(
        [root / "usr/bin/bible", "-f", "-p", root / "usr/lib", "gen1:1-rev22:21"],
        env={"LD_LIBRARY_PATH": _readline(program_deb, scratch)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def _readline(program_deb: Path, scratch: Path) -> str:
    """The library path of the one shared library that a bare system may lack."""
    names = [name for name in dependencies(program_deb) if name.startswith("libreadline")]
    root = scratch / "readline"
    for deb in download(names, scratch / "readline-deb").values():
        unpack(deb, root)
    return ":".join(str(folder) for folder in sorted(root.glob("**/lib/*-linux-gnu*")))
