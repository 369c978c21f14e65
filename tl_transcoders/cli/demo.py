"""`tl-transcoders demo`."""

import torch
from rich.console import Console

from tl_transcoders.demo.run import run


def demo() -> None:
    """Splice the shipped model, compare it with the original, and switch a feature off."""
    # Matrices this small gain nothing from threads, and lose much to them on a busy machine.
    torch.set_num_threads(1)
    run(Console())
