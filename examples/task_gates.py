"""Which tasks SmolLM2-135M and Gemma-3-270M do well enough to trace circuits on: the table of docs/circuits.md.

`python -m examples.task_gates smollm2` prints it for one model.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
import typer

from examples.real_models import Model, gemma3, load_bridge, smollm2
from tl_transcoders.circuits.tasks import (
    Task,
    agreement,
    gate,
    greater_than_digit,
    induction,
    ioi,
    pronoun,
)

PROMPTS: Final = 32
TASKS: Final[dict[str, Callable[..., Task]]] = {
    "ioi, ABBA, swap": ioi,
    "ioi, BABA, swap": partial(ioi, order="BABA"),
    "ioi, ABBA, names": partial(ioi, corruption="names"),
    "ioi, BABA, names": partial(ioi, order="BABA", corruption="names"),
    "agreement, none": partial(agreement, clause="none"),
    "agreement, prepositional": agreement,
    "agreement, relative": partial(agreement, clause="relative"),
    "pronoun": pronoun,
    "greater_than_digit, decade": greater_than_digit,
    "greater_than_digit, unit": partial(greater_than_digit, digit="unit"),
    "induction": induction,
}


def main(model: Model) -> None:
    """Print accuracy, m(base), m(source) and separation of every task, as rows of a Markdown table."""
    folders = {Model.SMOLLM2: smollm2, Model.GEMMA3: gemma3}
    for name in folders if model is Model.ALL else [model]:
        bridge = load_bridge(folders[name]())
        # SmolLM2's BOS is a chat marker, which plain prose does not follow; Gemma needs its BOS.
        prepend_bos = name is Model.GEMMA3
        for label, make in TASKS.items():
            with torch.no_grad():
                found = gate(bridge, make(bridge.tokenizer, n=PROMPTS, prepend_bos=prepend_bos))
            numbers = f"{found.accuracy:.2f} | {found.base.mean():.2f} | {found.source.mean():.2f}"
            passed = "yes" if found.passed else "no"
            typer.echo(f"| {name} | {label} | {numbers} | {found.separation:.1f} | {passed} |")


if __name__ == "__main__":
    typer.run(main)
