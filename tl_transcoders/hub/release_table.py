"""Known public sets as a table on the terminal."""

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from tl_transcoders.hub.release import Release


def release_table(releases: Iterable[Release]) -> Table:
    """One row per set: who published it, and what there is to choose from, the default first."""
    table = Table(title="Known public transcoders: tl_transcoders.load(name)", show_lines=True)
    table.add_column("name, model, repository, licence", overflow="fold")
    table.add_column("contents; the first choice is the default")
    for release in releases:
        name, repo, model, kind, layers, width, l0, tap, licence = map(escape, release.cells())
        about = [f"[bold]{name}[/bold]", model, repo, licence]
        named = {
            "layers": layers,
            "width": width,
            "L0": l0,
            "tap": tap,
            "note": escape(release.note),
        }
        facts = [kind, *(f"{label} {text}" for label, text in named.items() if text)]
        table.add_row("\n".join(about), "\n".join(facts))
    return table
