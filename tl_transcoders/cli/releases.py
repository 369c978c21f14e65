"""`tl-transcoders releases`."""

from typing import Annotated

import typer
from rich.console import Console

from tl_transcoders.hub import releases as known_releases


def releases(
    model: Annotated[str | None, typer.Option(help="Part of a model's name, such as gpt2.")] = None,
) -> None:
    """List the public transcoders that load knows by name."""
    found = known_releases(model)
    if not found:
        typer.echo(f"No known release for {model!r}. load reads any repository of a known format.")
        raise typer.Exit(1)
    Console().print(found)
