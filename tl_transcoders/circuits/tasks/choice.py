"""A task whose answer is one word rather than another."""

from collections.abc import Sequence

import torch

from tl_transcoders.circuits.metrics import LogitDiff
from tl_transcoders.circuits.tasks.task import Task
from tl_transcoders.circuits.tasks.wording import Pair, Wording, encode


def choice(wording: Wording, pairs: Sequence[Pair]) -> Task:
    """The task whose metric is logit(answer) − logit(wrong)."""
    base = encode(wording, [pair.base for pair in pairs])
    source = encode(wording, [pair.source for pair in pairs])
    if source.positions != base.positions:
        raise wording.error(f"source words at {source.positions}", f"base's {base.positions}")
    answers = [wording.answer(str(pair.base), f" {pair.answer}") for pair in pairs]
    wrongs = [wording.answer(str(pair.base), f" {pair.wrong}") for pair in pairs]
    return Task(
        name=wording.task,
        base=base.tokens,
        source=source.tokens,
        metric=LogitDiff(torch.tensor(answers), torch.tensor(wrongs)),
        positions=base.positions,
    )
