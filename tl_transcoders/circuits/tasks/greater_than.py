"""Spans of years that end after they begin."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tl_transcoders.circuits.metrics import ProbDiff
from tl_transcoders.circuits.tasks.task import Task
from tl_transcoders.circuits.tasks.wording import Pair, Prompt, Wording, distinct, encode
from tl_transcoders.circuits.tasks.words import SPANS

Digit = Literal["decade", "unit"]
"""Which digit of the last year is predicted."""

Groups = Callable[[int], tuple[list[int], list[int]]]
"""The good and the bad tokens of a number."""


def greater_than(
    tokenizer: Any, *, n: int = 64, century: int = 17, prepend_bos: bool = True, seed: int = 0
) -> Task:
    """`The war lasted from the year 1742 to the year 17` → a number above 42; the source year is 1701.

        metric = Σ p(ZZ > YY) − Σ p(ZZ ≤ YY)        over the two-digit tokens ZZ

    For tokenizers that split years in two, such as GPT-2's. Positions: noun, century, YY, again (the century
    for the second time), end.

    Source: Hanna et al. 2023, How does GPT-2 compute greater-than?
    """
    wording = Wording("greater_than", tokenizer, prepend_bos)
    template = "The {noun} lasted from the year {century}{YY} to the year {again}"
    opening = f"The war lasted from the year {century}"
    tokens = _numbers(wording, opening, [f"{number:02d}" for number in range(100)])
    years = wording.enough([y for y in range(2, 99) if y in tokens], 2, "numbers of two digits")
    nouns = wording.enough(wording.single(SPANS), 1, "nouns")

    def draw(rng: random.Random) -> Pair:
        noun, year, again = rng.choice(nouns), rng.choice(years), str(century)
        words = {"noun": noun, "century": again, "YY": f"{year:02d}", "again": again}
        return _pair(template, words, {"YY": "01"})

    def groups(year: int) -> tuple[list[int], list[int]]:
        return _split(tokens, good=lambda z: z > year, bad=lambda z: z <= year)

    return _task(wording, distinct(wording, draw, n=n, seed=seed), "YY", groups)


def greater_than_digit(
    tokenizer: Any,
    *,
    n: int = 64,
    digit: Digit = "decade",
    century: int = 17,
    prepend_bos: bool = True,
    seed: int = 0,
) -> Task:
    """The same for tokenizers that give every digit a token of its own, one digit of the last year at a time.

        decade: …1742 to the year 17     metric = Σ p(digit > 4) − Σ p(digit < 4)     source year 1701
        unit:   …1742 to the year 174    metric = Σ p(digit > 2) − Σ p(digit ≤ 2)     source year 1740

    An equal decade is neither right nor wrong, because the unit decides. Positions: noun, decade, unit, again
    (of `unit`: the decade for the second time), end.
    """
    wording = Wording(f"greater_than_digit, {digit}", tokenizer, prepend_bos)
    template = (
        f"The {{noun}} lasted from the year {century}{{decade}}{{unit}} to the year {century}"
    )
    template += "" if digit == "decade" else "{again}"
    opening = f"The war lasted from the year {century}"
    tokens = _numbers(wording, opening, [str(number) for number in range(10)])
    wording.enough(list(tokens), 10, "digits")
    nouns = wording.enough(wording.single(SPANS), 1, "nouns")

    def draw(rng: random.Random) -> Pair:
        decade, unit = str(rng.randrange(1, 9)), str(rng.randrange(1, 9))
        words = {"noun": rng.choice(nouns), "decade": decade, "unit": unit, "again": decade}
        change = {"decade": "0", "unit": "1"} if digit == "decade" else {"unit": "0"}
        return _pair(template, words, change)

    def groups(value: int) -> tuple[list[int], list[int]]:
        good, least = (lambda d: d > value), value + (digit == "unit")
        return _split(tokens, good=good, bad=lambda d: d < least)

    return _task(wording, distinct(wording, draw, n=n, seed=seed), digit, groups)


def _numbers(wording: Wording, opening: str, numbers: Sequence[str]) -> dict[int, int]:
    """The tokens of those numbers that are single tokens after the opening."""
    found = {int(number): wording.next_token(opening, number) for number in numbers}
    return {number: token for number, token in found.items() if token is not None}


def _pair(template: str, words: Mapping[str, str], change: Mapping[str, str]) -> Pair:
    return Pair(Prompt(template, words), Prompt(template, {**words, **change}))


def _split(
    tokens: Mapping[int, int], *, good: Callable[[int], bool], bad: Callable[[int], bool]
) -> tuple[list[int], list[int]]:
    return (
        [token for number, token in tokens.items() if good(number)],
        [token for number, token in tokens.items() if bad(number)],
    )


def _task(wording: Wording, pairs: Sequence[Pair], slot: str, groups: Groups) -> Task:
    base = encode(wording, [pair.base for pair in pairs])
    source = encode(wording, [pair.source for pair in pairs])
    return Task(
        name=wording.task,
        base=base.tokens,
        source=source.tokens,
        metric=ProbDiff([groups(int(pair.base.words[slot])) for pair in pairs]),
        positions=base.positions,
    )
