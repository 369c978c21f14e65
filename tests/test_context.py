"""Prompts longer than the model's context are told of wherever tokens enter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from tests.cases import HOSTS, Kind, tokens
from tl_transcoders.circuits.metrics import LogitDiff
from tl_transcoders.circuits.nodes import Feature, Head
from tl_transcoders.circuits.tasks.gate import measure
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

SKIP = Kind("topk-skip", TopK(5), skip=True)
LONG = tokens(3).repeat(1, 10)
METRIC = LogitDiff(torch.tensor([5, 5, 5]), torch.tensor([9, 9, 9]))


def patch(spliced: Spliced, base: Tensor, sender: Any) -> object:
    head = Head(0, 1)
    return tlt.path_patch(
        spliced, base, senders={head: sender}, receivers=["logits"], metric=METRIC
    )


ENTRIES: dict[str, Callable[[Spliced], object]] = {
    "evaluate": lambda spliced: tlt.evaluate(spliced, LONG),
    "capture": lambda spliced: capture(spliced, LONG),
    "intervene": lambda spliced: tlt.intervene(spliced, LONG, {}),
    "intervene on text": lambda spliced: tlt.intervene(spliced, tokens(), {Feature(0, 3): tlt.Patch(LONG)}),
    "path_patch": lambda spliced: patch(spliced, LONG, tlt.Ablate()),
    "Mean": lambda spliced: patch(spliced, tokens(), tlt.Mean(LONG, per_position=False)),
    "gate": lambda spliced: measure(spliced, LONG, METRIC),
    "freeze": lambda spliced: spliced.freeze(LONG),
}  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_runs_say_so(entry: Callable[[Spliced], object]) -> None:
    model = HOSTS[0].build()
    with (
        tlt.splice(model, SKIP.build(model), error="freeze", base=tokens()) as spliced,
        pytest.raises(
            tlt.errors.ConfigError, match="got prompts of 70 positions; expected at most 64"
        ),
    ):
        entry(spliced)


@pytest.mark.parametrize("settings", [{"error": "freeze", "base": LONG}, {"check": LONG}])
def test_a_splice_says_so_and_changes_nothing(settings: dict[str, Any]) -> None:
    model = HOSTS[0].build()
    mlp = model.blocks[0].mlp
    with pytest.raises(tlt.errors.ConfigError, match="got prompts of 70 positions"):
        tlt.splice(model, SKIP.build(model), **settings)
    assert model.blocks[0].mlp is mlp


def test_training_cuts_rows_where_it_is_told_to() -> None:
    model = HOSTS[0].build()
    config: dict[str, Any] = {"n_features": 7, "activation": TopK(3), "batch_size": 8, "shuffle": 1}
    with pytest.raises(tlt.errors.ConfigError, match="tokens: got prompts of 70 positions"):
        tlt.train(model, layers=[0], config=tlt.TrainConfig(**config), tokens=LONG)
    cut = tlt.TrainConfig(**config, context=35)
    assert tlt.train(model, layers=[0], config=cut, tokens=LONG).layers == (0,)
    with pytest.raises(tlt.errors.ConfigError, match="check: got prompts of 70 positions"):
        tlt.check(model, SKIP.build(model), LONG)
