"""`tl-transcoders demo`."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from tl_transcoders.demo.run import run


def demo(
    out: Annotated[Path, typer.Option(help="The page of the circuit.")] = Path("demo_graph.html"),
) -> None:
    """Splice the shipped model, compare it with the original, switch a feature off, and trace a circuit."""
    # Matrices this small gain nothing from threads, and lose much to them on a busy machine.
    torch.set_num_threads(1)
    run(Console(), out)
