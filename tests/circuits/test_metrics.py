from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tl_transcoders.circuits.metrics import (
    AbstractMetric,
    CustomMetric,
    LogitDiff,
    LogProb,
    Metric,
    ProbDiff,
    TokenLogit,
    as_metric,
)
from tl_transcoders.errors import ConfigError, ShapeError

BATCH, POS, VOCAB = 3, 7, 11
ANSWERS, WRONGS = torch.tensor([4, 10, 4]), torch.tensor([0, 4, 2])
GROUPS = [([5, 6], [1]), ([0], []), ([], [9, 10, 2])]


def by_hand(prompt: int, logits: Tensor) -> dict[str, Tensor]:
    """Each metric of one prompt, as its definition says."""
    p, (good, bad) = logits[-1].softmax(-1), GROUPS[prompt]
    answer, wrong = ANSWERS[prompt], WRONGS[prompt]
    return {
        "diff": logits[-1, answer] - logits[-1, wrong],
        "earlier": logits[2, answer] - logits[2, wrong],
        "logit": logits[-1, answer],
        "log_prob": p[answer].log(),
        "prob_diff": sum((p[i] for i in good), p.new_zeros(()))
        - sum((p[i] for i in bad), p.new_zeros(())),
        "custom": logits[:, answer].sum() * logits[0, prompt],
    }


def custom(logits: Tensor) -> Tensor:
    rows = torch.arange(BATCH)
    return logits[rows, :, ANSWERS].sum(1) * logits[rows, 0, rows]


METRICS: dict[str, AbstractMetric] = {
    "diff": LogitDiff(ANSWERS, WRONGS),
    "earlier": LogitDiff(ANSWERS, WRONGS, pos=2),
    "logit": TokenLogit(ANSWERS),
    "log_prob": LogProb(ANSWERS),
    "prob_diff": ProbDiff(GROUPS),
    "custom": CustomMetric(custom, BATCH),
}


def some_logits(rows: int = BATCH) -> Tensor:
    return torch.randn(rows, POS, VOCAB, dtype=torch.float64)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_its_definition(name: str) -> None:
    logits = some_logits()
    expected = torch.stack([by_hand(i, x)[name] for i, x in enumerate(logits)])
    torch.testing.assert_close(METRICS[name](logits), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 2, 0, 1, 2], [1], [0, 1, 2, 0, 1, 2]])
def test_rows_of_any_prompts_in_any_order(name: str, rows: list[int]) -> None:
    metric, logits = METRICS[name], some_logits(len(rows))
    read = logits if metric.pos is None else logits[:, metric.pos]
    tokens = metric.needs(VOCAB)
    read = read if tokens is None else read[..., tokens]
    expected = torch.stack([by_hand(i, x)[name] for i, x in zip(rows, logits, strict=True)])
    got = metric.of_rows(read, torch.tensor(rows))
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", METRICS)
def test_gradients_are_those_of_the_definition(name: str) -> None:
    ours, theirs = (some_logits().requires_grad_() for _ in range(2))
    theirs.data.copy_(ours.data)
    METRICS[name](ours).sum().backward()
    torch.stack([by_hand(i, x)[name] for i, x in enumerate(theirs)]).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", METRICS)
def test_a_prompt_is_measured_by_its_own_logits(name: str) -> None:
    logits = some_logits()
    changed = logits.clone()
    changed[1] += torch.randn(POS, VOCAB)
    before, after = METRICS[name](logits), METRICS[name](changed)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert before[1] != after[1]


def test_selective_metrics_need_their_own_tokens_alone() -> None:
    assert METRICS["diff"].needs(VOCAB).tolist() == [0, 2, 4, 10]
    assert METRICS["logit"].needs(VOCAB).tolist() == [4, 10]
    assert METRICS["log_prob"].needs(VOCAB) is None
    assert METRICS["prob_diff"].needs(VOCAB) is None


def test_probabilities_of_low_precision_logits_are_computed_in_float32() -> None:
    logits = some_logits().bfloat16()
    assert torch.equal(METRICS["log_prob"](logits), METRICS["log_prob"](logits.float()))
    assert torch.equal(METRICS["prob_diff"](logits), METRICS["prob_diff"](logits.float()))


def test_a_function_becomes_a_metric() -> None:
    logits = some_logits()
    made = as_metric(custom, BATCH)
    assert isinstance(made, CustomMetric)
    assert torch.equal(made(logits), custom(logits))
    assert as_metric(CustomMetric(custom), BATCH).batch == BATCH
    assert as_metric(METRICS["diff"], BATCH) is METRICS["diff"]


@pytest.mark.parametrize(
    ("fn", "got"),
    [
        (lambda logits: logits.mean(), r"shape \(\)"),
        (lambda logits: logits[:, -1], r"shape \(3, 11\)"),
        (lambda logits: logits[:2, -1, 0], r"shape \(2,\)"),
        (lambda _: 0.5, "float"),
    ],
)
def test_a_metric_that_is_no_value_per_prompt(fn: Callable[[Tensor], Tensor], got: str) -> None:
    expected = rf"metric: got {got}; expected a tensor \[batch=3\]: one value per prompt"
    with pytest.raises(ShapeError, match=expected):
        as_metric(fn, BATCH)(some_logits())


@pytest.mark.parametrize("metric", [METRICS["diff"], METRICS["custom"], METRICS["prob_diff"]])
def test_a_metric_of_other_prompts(metric: Metric) -> None:
    with pytest.raises(ShapeError, match="got 3 prompts; expected 5 prompts"):
        as_metric(metric, 5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitDiff(ANSWERS, WRONGS[:2]), "LogitDiff, wrongs: got 2 prompts; expected 3"),
        (lambda: LogProb(ANSWERS.float()), r"LogProb: got torch.float32 \(3,\); expected an int"),
        (lambda: TokenLogit(-ANSWERS), "none of them negative"),
        (lambda: TokenLogit(ANSWERS, pos=None), "TokenLogit: got pos=None; expected one position"),
        (lambda: ProbDiff([([3], [3, 4])]), r"ProbDiff: got tokens \[3\] among the good and the"),
        (lambda: ProbDiff([]), "ProbDiff: got"),
    ],
)
def test_what_no_metric_can_be(make: Callable[[], AbstractMetric], message: str) -> None:
    with pytest.raises((ShapeError, ConfigError), match=message):
        make()


class Averaging(AbstractMetric):
    """A metric that breaks the rule."""

    pos, batch = -1, None

    def needs(self, vocab: int) -> None:
        """Every token."""

    def of_rows(self, logits: Tensor, rows: Tensor) -> Tensor:
        """One number for all."""
        return logits.mean() + rows.sum()


def test_a_metric_class_that_averages() -> None:
    with pytest.raises(ShapeError, match=r"metric: got shape \(\); expected a tensor \[batch=3\]"):
        Averaging()(some_logits())


def test_what_the_logits_do_not_hold() -> None:
    with pytest.raises(ConfigError, match="got token 10; expected a token of the vocabulary, 0 to"):
        METRICS["diff"](some_logits()[..., :10])
    with pytest.raises(ConfigError, match="got token 10"):
        METRICS["prob_diff"](some_logits()[..., :10])
    with pytest.raises(ShapeError, match="got logits of 2 positions; expected position 2"):
        METRICS["earlier"](some_logits()[:, :2])


def test_a_function_of_unknown_size_takes_whole_batches_only() -> None:
    with pytest.raises(ConfigError, match=r"Make it with as_metric\(fn, batch\)"):
        CustomMetric(custom).of_rows(some_logits(), torch.tensor([2, 1, 0]))


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_metric() -> None:
    no_metric: Any = "logit_diff"
    with pytest.raises(ConfigError, match="metric: got str; expected LogitDiff, LogProb"):
        as_metric(no_metric, BATCH)
