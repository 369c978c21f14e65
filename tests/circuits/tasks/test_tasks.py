from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from tests.cases import tokenizer as tiny_tokenizer
from tests.circuits.tasks.tokenizers import word_tokenizer
from tl_transcoders.circuits.metrics import LogitDiff, ProbDiff
from tl_transcoders.circuits.tasks import (
    Task,
    agreement,
    greater_than,
    greater_than_digit,
    induction,
    ioi,
    pronoun,
)
from tl_transcoders.errors import ConfigError, ShapeError

PAIRS, DIGITS = word_tokenizer("pairs"), word_tokenizer("digits")

Make = Callable[..., Task]
TASKS: dict[str, Make] = {
    "ioi-abba": partial(ioi, PAIRS),
    "ioi-baba-names": partial(ioi, PAIRS, order="BABA", corruption="names"),
    "agreement": partial(agreement, PAIRS),
    "agreement-none": partial(agreement, PAIRS, clause="none"),
    "agreement-relative": partial(agreement, PAIRS, clause="relative"),
    "pronoun": partial(pronoun, PAIRS),
    "greater-than": partial(greater_than, PAIRS),
    "decade": partial(greater_than_digit, DIGITS),
    "unit": partial(greater_than_digit, DIGITS, digit="unit"),
    "induction": partial(induction, PAIRS),
    "induction-tiny": partial(induction, tiny_tokenizer()),
}
CHANGED = {
    "ioi-abba": {"S2"},
    "ioi-baba-names": {"IO", "S1", "S2"},
    "agreement": {"subject"},
    "agreement-none": {"subject"},
    "agreement-relative": {"subject"},
    "pronoun": {"name"},
    "greater-than": {"YY"},
    "decade": {"decade", "unit"},
    "unit": {"unit"},
    "induction": {"A", "C"},
    "induction-tiny": {"A", "C"},
}


@pytest.mark.parametrize("name", TASKS)
def test_source_differs_from_base_where_the_answer_is_decided(name: str) -> None:
    task = TASKS[name](n=13)
    changed = {pos for _, pos in (task.base != task.source).nonzero().tolist()}
    assert changed == {task.positions[slot] for slot in CHANGED[name]}
    assert task.base.shape == task.source.shape == (13, task.positions["end"] + 1)
    assert task.metric.batch == len(task) == 13


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_gives_the_same_task_and_another_seed_another(name: str) -> None:
    first, again, other = (TASKS[name](n=7, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.base, again.base)
    assert torch.equal(first.source, again.source)
    assert not torch.equal(first.base, other.base)


@pytest.mark.parametrize("name", TASKS)
def test_bos_stands_before_the_prompt_or_does_not(name: str) -> None:
    task, bare = TASKS[name](n=3), TASKS[name](n=3, prepend_bos=False)
    assert torch.equal(task.base[:, 1:], bare.base)
    assert {slot: pos - 1 for slot, pos in task.positions.items()} == bare.positions


def text(task: Task, i: int, tokenizer: Any = PAIRS) -> str:
    return tokenizer.decode(task.base[i, 1:])


def words(task: Task, i: int, *slots: str, tokenizer: Any = PAIRS) -> list[str]:
    return [tokenizer.decode([task.base[i, task.positions[slot]]]).strip() for slot in slots]


def answers(task: Task, i: int) -> list[str]:
    assert isinstance(task.metric, LogitDiff)
    both = (task.metric.answers[i], task.metric.wrongs[i])
    return [PAIRS.decode([token]).strip() for token in both]


@pytest.mark.parametrize("order", ["ABBA", "BABA"])
def test_ioi(order: Any) -> None:
    task = ioi(PAIRS, n=13, order=order)
    for i in range(13):
        recipient, subject, again, place, thing = words(
            task, i, "IO", "S1", "S2", "place", "object"
        )
        first, second = (recipient, subject) if order == "ABBA" else (subject, recipient)
        assert subject == again
        assert f"{first} and {second}" in text(task, i)
        assert f"the {place}, {subject} " in text(task, i)
        assert text(task, i).endswith(f"{thing} to")
        assert answers(task, i) == [recipient, subject]
        assert PAIRS.decode([task.source[i, task.positions["S2"]]]).strip() == recipient


def test_ioi_with_other_names_names_nobody_twice() -> None:
    task = ioi(PAIRS, n=13, corruption="names")
    for i in range(13):
        named = [int(task.source[i, task.positions[slot]]) for slot in ("IO", "S1", "S2")]
        assert len({*named, *words(task, i, "IO", "S1")}) == 5


@pytest.mark.parametrize("clause", ["none", "prepositional", "relative"])
def test_agreement(clause: Any) -> None:
    task = agreement(PAIRS, n=41, clause=clause)
    plurals = 0
    for i in range(41):
        (subject,) = words(task, i, "subject")
        right, wrong = answers(task, i)
        plural = subject.endswith("s")
        plurals += plural
        assert (right in {"are", "were", "have"}) is plural
        assert (wrong in {"is", "was", "has"}) is plural
        assert PAIRS.decode([task.source[i, task.positions["subject"]]]).endswith("s") is not plural
    assert 8 < plurals < 33
    assert ("other" in task.positions) is (clause != "none")


def test_pronoun() -> None:
    task = pronoun(PAIRS, n=13)
    for i in range(13):
        (name,) = words(task, i, "name")
        assert text(task, i).startswith(f"So {name} ")
        assert answers(task, i) == (["he", "she"] if name in MEN else ["she", "he"])


MEN = {"James", "John", "Robert", "Michael", "William", "David", "Richard", "Joseph", "Thomas"} | {
    "Charles", "Daniel", "Matthew", "Anthony", "Mark", "Paul", "Steven", "Andrew", "George",
    "Kevin", "Brian", "Edward", "Peter", "Jack", "Adam", "Henry",
}  # fmt: skip


def in_group(task: Task, tokenizer: Any, group: int) -> list[list[str]]:
    assert isinstance(task.metric, ProbDiff)
    return [[tokenizer.decode([token]) for token in groups[group]] for groups in task.metric.groups]


def test_greater_than() -> None:
    task = greater_than(PAIRS, n=13)
    good, bad = in_group(task, PAIRS, 0), in_group(task, PAIRS, 1)
    for i in range(13):
        noun, century, year, again = words(task, i, "noun", "century", "YY", "again")
        assert text(task, i) == f"The {noun} lasted from the year 17{year} to the year 17"
        assert century == again == "17"
        assert good[i] == [f"{z:02d}" for z in range(int(year) + 1, 100)]
        assert bad[i] == [f"{z:02d}" for z in range(int(year) + 1)]
        assert PAIRS.decode([task.source[i, task.positions["YY"]]]) == "01"


def test_greater_than_by_digits() -> None:
    decades, units = (
        greater_than_digit(DIGITS, n=13),
        greater_than_digit(DIGITS, n=13, digit="unit"),
    )
    better, worse = in_group(decades, DIGITS, 0), in_group(decades, DIGITS, 1)
    for i in range(13):
        noun, ten, one = words(decades, i, "noun", "decade", "unit", tokenizer=DIGITS)
        opening = f"The {noun} lasted from the year 17{ten}{one} to the year 17"
        assert text(decades, i, DIGITS) == opening
        assert better[i] == [str(d) for d in range(int(ten) + 1, 10)]
        assert worse[i] == [str(d) for d in range(int(ten))]
    better, worse = in_group(units, DIGITS, 0), in_group(units, DIGITS, 1)
    for i in range(13):
        ten, one, again = words(units, i, "decade", "unit", "again", tokenizer=DIGITS)
        assert ten == again
        assert text(units, i, DIGITS).endswith(f"17{ten}{one} to the year 17{ten}")
        assert better[i] == [str(d) for d in range(int(one) + 1, 10)]
        assert worse[i] == [str(d) for d in range(int(one) + 1)]


@pytest.mark.parametrize("length", [6, 7, 12])
def test_induction(length: int) -> None:
    task = induction(tiny_tokenizer(), n=5, length=length)
    at = {slot: task.base[:, pos] for slot, pos in task.positions.items()}
    assert isinstance(task.metric, LogitDiff)
    assert torch.equal(at["A"], at["end"])
    assert torch.equal(task.metric.answers, at["B"])
    assert torch.equal(task.metric.wrongs, at["D"])
    assert task.positions["B"] == task.positions["A"] + 1
    assert task.positions["D"] == task.positions["C"] + 1
    assert len({*task.positions.values()}) == 5
    assert torch.equal(task.source[:, task.positions["C"]], at["A"])
    for row in task.base[:, 1 : length + 1].tolist():
        assert len(set(row)) == length


# what no task can be


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(ioi, tiny_tokenizer()), "task ioi: got 0 names that are single tokens; expected"),
        (partial(agreement, tiny_tokenizer()), "got 0 nouns in both numbers that are single"),
        (partial(pronoun, tiny_tokenizer()), "got 0 names of men that are single tokens"),
        (partial(greater_than, tiny_tokenizer()), "got 0 numbers of two digits that are single"),
        (partial(greater_than, DIGITS), "got 0 numbers of two digits that are single tokens"),
        (partial(greater_than_digit, tiny_tokenizer()), "got 0 digits that are single tokens"),
        (partial(induction, tiny_tokenizer(), length=60), "different words; expected at least 60"),
        (partial(induction, tiny_tokenizer(), length=5), "got length=5, n=64"),
        (partial(ioi, PAIRS, n=0), "got n=0; expected 1 to 0 different prompts"),
        (
            partial(agreement, PAIRS, n=1000, clause="none"),
            "expected 1 to [0-9]+ different prompts",
        ),
    ],
)
def test_a_tokenizer_or_size_that_does_not_do(make: Make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_tokenizer_without_bos(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = type(PAIRS)(tokenizer_object=PAIRS._tokenizer, unk_token="<unk>")
    with pytest.raises(ConfigError, match="got a tokenizer without BOS; expected a BOS token, or"):
        pronoun(bare)
    assert torch.equal(pronoun(bare, prepend_bos=False).base, pronoun(PAIRS).base[:, 1:])


@pytest.mark.usefixtures("unchecked")
def test_pairs_that_do_not_match() -> None:
    tokens, metric = (
        torch.ones(3, 7, dtype=torch.int64),
        LogitDiff(torch.ones(3).long(), torch.zeros(3).long()),
    )
    whole = {"name": "x", "base": tokens, "source": tokens, "metric": metric, "positions": {}}
    with pytest.raises(ShapeError, match=r"task x: got source \(3, 6\); expected base's shape"):
        Task(**{**whole, "source": tokens[:, 1:]})
    with pytest.raises(ShapeError, match="got a metric of 3 prompts; expected one of 2 prompts"):
        Task(**{**whole, "base": tokens[1:], "source": tokens[1:]})
    with pytest.raises(ShapeError, match="got end at position 7; expected a position of 7 tokens"):
        Task(**{**whole, "positions": {"end": 7}})
