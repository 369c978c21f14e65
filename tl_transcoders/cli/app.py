"""The verbs, put together."""

from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from tl_transcoders.cli.demo import demo
from tl_transcoders.cli.releases import releases

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(demo)
app.command()(releases)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"tl-transcoders {installed_version('tl-transcoders')}")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Swap the MLPs of a TransformerLens model for sparse transcoders and hook their features."""
