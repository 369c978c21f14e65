"""Sentences the year-span model is trained on, and the greater-than metric."""

import random
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.demo.vocabulary import (
    ADJECTIVES,
    BOS,
    CENTURIES,
    NOUNS,
    PEOPLE,
    PLACES,
    VERBS,
    VOCABULARY,
    two_digit_ids,
    two_digits,
)

PROMPT = "The war lasted from the year 1742 to the year 17"
SEQUENCE_LENGTH = 48

_KINDS = ("span", "before", "after", "began", "was", "nobody", "people")
_WEIGHTS = (60, 8, 8, 6, 6, 6, 6)


def prompt(noun: str, century: int, year: int) -> str:
    """`"The war lasted from the year 1742 to the year 17"`, of which the model predicts a year above 42."""
    return f"The {noun} lasted from the year {century}{two_digits(year)} to the year {century}"


def is_held_out(noun: str, century: int) -> bool:
    """Whether no training sentence gives this noun a span of years in this century."""
    return (NOUNS.index(noun) + CENTURIES.index(century)) % 5 == 4


def sentence(rng: random.Random) -> str:
    """One sentence; most have the form of `PROMPT`."""
    noun = rng.choice(NOUNS)
    match rng.choices(_KINDS, _WEIGHTS)[0]:
        case "span":
            start, end = _span(rng, noun)
            return f"The {noun} lasted from the year {start} to the year {end}."
        case "before":
            start, end = _span(rng, noun)
            return f"The {noun} of the year {start} came before the {rng.choice(NOUNS)} of the year {end}."
        case "after":
            start, end = _span(rng, noun)
            return f"The {noun} of the year {end} came after the {rng.choice(NOUNS)} of the year {start}."
        case "began":
            return f"In the year {_year(rng)} the {noun} began."
        case "was":
            return f"The {noun} of the year {_year(rng)} was {rng.choice(ADJECTIVES)}."
        case "nobody":
            return f"Nobody {rng.choice(VERBS)} the {rng.choice(ADJECTIVES)} {noun}."
        case _:
            doing = f"{rng.choice(PEOPLE)} {rng.choice(VERBS)} the {noun}"
            return f"The {doing} near the {rng.choice(PLACES)}."


def training_tokens(n: int, seed: int) -> Int[Tensor, "batch pos"]:
    """`n` sequences of BOS and as many sentences as fill `SEQUENCE_LENGTH` tokens, the last one cut."""
    rng = random.Random(seed)
    return torch.tensor([_sequence(rng) for _ in range(n)])


def greater_than_score(
    logits_last: Float[Tensor, "batch vocab"], years: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """How far the model prefers years above the start of the span.

        score = Σ p(ZZ > YY) − Σ p(ZZ ≤ YY)        over the two-digit tokens ZZ

    **Arguments:** `logits_last`, at the last position of a prompt; `years`, the YY of each.

    Source: Hanna et al. 2023, How does GPT-2 compute greater-than?, section 3.
    """
    ids = two_digit_ids().to(logits_last.device)
    p = logits_last.softmax(dim=-1)[:, ids]
    above = torch.arange(100, device=p.device) > years[:, None]
    return torch.where(above, p, -p).sum(dim=-1)


def prompt_tokens(
    noun: str = "war", century: int = 17
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
    """The prompts of YY = 01 … 98 for one noun and century, with BOS, and their years."""
    years = range(1, 99)
    rows = [[VOCABULARY[BOS], *token_ids(prompt(noun, century, year))] for year in years]
    return torch.tensor(rows), torch.tensor(years)


def token_ids(text: str) -> list[int]:
    """The ids the shipped tokenizer gives `text`, without BOS; only for words of the vocabulary."""
    return [VOCABULARY[piece] for piece in _pieces(text)]


def _span(rng: random.Random, noun: str) -> tuple[str, str]:
    century = rng.choice([c for c in CENTURIES if not is_held_out(noun, c)])
    start = rng.randrange(0, 99)
    end = rng.randrange(start + 1, 100)
    return f"{century}{two_digits(start)}", f"{century}{two_digits(end)}"


def _year(rng: random.Random) -> str:
    return f"{rng.choice(CENTURIES)}{two_digits(rng.randrange(100))}"


def _sequence(rng: random.Random) -> list[int]:
    ids = [VOCABULARY[BOS], *token_ids(sentence(rng))]
    while len(ids) < SEQUENCE_LENGTH:
        ids += token_ids(f" {sentence(rng)}")
    return ids[:SEQUENCE_LENGTH]


def _pieces(text: str) -> Iterator[str]:
    spaced = text.replace(".", " .")
    for position, word in enumerate(spaced.split(" ")):
        space = " " if position else ""
        if word.isdigit() and len(word) == 4:
            yield from (space + word[:2], word[2:])
        elif word:
            yield word if word == "." else space + word
