from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from tests.cases import Host, tokenizer
from tl_transcoders.circuits.metrics import AbstractMetric, LogitDiff, LogProb, as_metric
from tl_transcoders.circuits.tasks import Gate, gate, greater_than, induction, measure, require
from tl_transcoders.demo import greater_than_score, load_model, load_transcoders, prompt_tokens
from tl_transcoders.errors import ConfigError

TINY = Host("gpt2", "bridge", processed=False)


def custom(logits: Tensor) -> Tensor:
    return logits[:, 2, 5] - logits[:, -1, 7]


METRICS = [
    LogitDiff(torch.arange(5), torch.arange(5, 10), pos=3),
    LogProb(torch.arange(5)),
    as_metric(custom, 5),
]


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_measuring_in_parts_is_measuring_at_once(metric: AbstractMetric, batch_size: int) -> None:
    model, task = TINY.build(), induction(tokenizer(), n=5)
    whole = metric(model(task.base)).detach()
    got = measure(model, task.base, metric, batch_size=batch_size)
    torch.testing.assert_close(got, whole, atol=1e-5, rtol=0)


def test_what_a_gate_says() -> None:
    base, source = torch.tensor([1.0, 2.0, -1.0, 4.0]), torch.tensor([0.0, 0.0, 0.0, 0.0])
    found = Gate(task="x", base=base, source=source)
    assert found.accuracy == 0.75
    assert found.difference == 1.5
    assert found.stderr == pytest.approx((13 / 3) ** 0.5 / 2)
    assert found.separation == pytest.approx(1.5 / found.stderr)
    assert not found.passed
    assert str(found).startswith("x: accuracy 0.75, m(base) 1.50, m(source) 0.00, separation 1.4")


@pytest.mark.parametrize(
    ("base", "source", "passed"),
    [
        ([2.0, 2.1, 1.9], [0.0, 0.1, 0.0], True),
        ([2.0, 2.1, 1.9], [9.0, 9.1, 9.0], True),
        ([2.0, 2.1, 1.9], [2.0, 2.1, 1.9], False),
        ([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], True),
        ([2.0, 2.1, 1.9], [2.1, 1.9, 2.0], False),
        ([2.0], [0.0], False),
    ],
)
def test_separation_counts_either_way(base: list[float], source: list[float], passed: bool) -> None:
    assert Gate(task="x", base=torch.tensor(base), source=torch.tensor(source)).passed is passed


def test_a_model_that_cannot_do_the_task_is_refused() -> None:
    task = induction(tokenizer(), n=31)
    assert not gate(TINY.build(), task).passed
    message = (
        r"task induction: got accuracy 0\.\d\d and separation \d.* expected accuracy 0.9 or more"
    )
    with pytest.raises(ConfigError, match=message):
        require(TINY.build(), task)


@pytest.mark.cases
def test_the_demo_model_knows_greater_than() -> None:
    model = load_model()
    task = greater_than(model.tokenizer, n=31)
    found = require(model, task)
    assert found.accuracy == 1.0
    assert float(found.base.mean()) > 0.8
    assert found.difference > 0.5


@pytest.mark.cases
def test_the_demo_model_with_its_transcoders_is_measured_as_it_stands() -> None:
    model = load_model()
    task = greater_than(model.tokenizer, n=13)
    base = gate(model, task)
    with tlt.splice(model, load_transcoders("skip"), error="keep") as spliced:
        kept = require(spliced, task)
    with tlt.splice(model, load_transcoders("skip")) as spliced:
        dropped = gate(spliced, task)
    torch.testing.assert_close(kept.base, base.base, atol=1e-5, rtol=0)
    assert (dropped.base - base.base).abs().max() > 1e-4


def test_the_task_is_the_demo_models_own() -> None:
    model: Any = load_model()
    task = greater_than(model.tokenizer, n=17, century=13)
    nouns = [model.tokenizer.decode([t]).strip() for t in task.base[:, task.positions["noun"]]]
    years = [int(model.tokenizer.decode([t])) for t in task.base[:, task.positions["YY"]]]
    for row, noun, year in zip(task.base, nouns, years, strict=True):
        assert torch.equal(row, prompt_tokens(noun, 13)[0][year - 1])
    with torch.no_grad():
        logits = model(task.base)
    expected = greater_than_score(logits[:, -1], torch.tensor(years))
    torch.testing.assert_close(task.metric(logits), expected, atol=1e-6, rtol=0)


def test_the_gate_is_closed_to_prompts_in_the_wrong_roles() -> None:
    model = load_model()
    task = greater_than(model.tokenizer, n=13)
    swapped = replace(task, base=task.source, source=task.base)
    assert not gate(model, swapped).passed
