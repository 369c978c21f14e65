"""From words to tokens: prompts that have one length, and their words at the same places."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, TypeVar, final

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.errors import ConfigError

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Wording:
    """A tokenizer as a task uses it: with BOS before a prompt or without, and no other special token."""

    task: str
    tokenizer: Any
    prepend_bos: bool

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, without BOS."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def next_token(self, text: str, word: str) -> int | None:
        """The token that appends `word` to a text; None where it takes more than one, or changes those before."""
        before, after = self.ids(text), self.ids(text + word)
        whole = len(after) == len(before) + 1 and after[:-1] == before
        return after[-1] if whole and after[-1] != self.tokenizer.unk_token_id else None

    def answer(self, text: str, word: str) -> int:
        """The token that appends `word`; raises ConfigError where it is not one token."""
        token = self.next_token(text, word)
        if token is None:
            raise self.error(
                f"{word!r} after {text!r} as {self.ids(text + word)}", "a single token"
            )
        return token

    def single(self, words: Iterable[T], text: Callable[[T], str] | None = None) -> list[T]:
        """Those of the words that are single tokens after a space."""
        spell = str if text is None else text
        return [word for word in words if self.next_token("the", f" {spell(word)}") is not None]

    def enough(self, words: Sequence[T], least: int, what: str) -> Sequence[T]:
        """The words; raises ConfigError where there are fewer than `least`."""
        if len(words) < least:
            raise self.error(f"{len(words)} {what} that are single tokens", f"at least {least}")
        return words

    @property
    def bos(self) -> list[int]:
        """What stands before a prompt."""
        if not self.prepend_bos:
            return []
        if self.tokenizer.bos_token_id is None:
            raise self.error("a tokenizer without BOS", "a BOS token, or prepend_bos=False")
        return [self.tokenizer.bos_token_id]

    def error(self, got: str, expected: str) -> ConfigError:
        """The task does not go with the tokenizer."""
        do = "Choose a task that suits this tokenizer, or another model."
        return ConfigError(f"task {self.task}", got=got, expected=expected, do=do)


@final
@dataclass(frozen=True, slots=True)
class Prompt:
    """A template and the word for each `{slot}` in it."""

    template: str
    words: Mapping[str, str]

    def __str__(self) -> str:
        return self.template.format(**self.words)


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """A base and a source prompt, and the words that answer the base rightly and wrongly."""

    base: Prompt
    source: Prompt
    answer: str = ""
    wrong: str = ""


@final
@dataclass(frozen=True, slots=True)
class Encoded:
    """Prompts as tokens, and where their slots are."""

    tokens: Int[Tensor, "batch pos"]
    positions: Mapping[str, int]


def encode(wording: Wording, prompts: Sequence[Prompt]) -> Encoded:
    """Prompts as tokens.

    **Raises:** ConfigError where the word of a slot is not a single token, or prompts differ in length or in
    the places of their slots.
    """
    rows = [[*wording.bos, *wording.ids(str(prompt))] for prompt in prompts]
    layouts = [layout(wording, prompt) for prompt in prompts]
    for prompt, found in zip(prompts, layouts, strict=True):
        if found != layouts[0]:
            raise wording.error(f"{str(prompt)!r} with {found}", f"{layouts[0]}")
    return Encoded(torch.tensor(rows), layouts[0])


def layout(wording: Wording, prompt: Prompt) -> dict[str, int]:
    """The position of every slot and of the `end` of a prompt."""
    whole, first, text, places = wording.ids(str(prompt)), len(wording.bos), "", {}
    if wording.tokenizer.unk_token_id in whole:
        raise wording.error(f"unknown words in {str(prompt)!r}", "a tokenizer that knows them")
    for literal, slot, _, _ in Formatter().parse(prompt.template):
        text += literal
        if slot is None:
            continue
        spaced = text.removesuffix(" ")
        word = text[len(spaced) :] + prompt.words[slot]
        token, place = wording.answer(spaced, word), len(wording.ids(spaced))
        if whole[place : place + 1] != [token]:
            raise wording.error(f"{word!r} inside {str(prompt)!r}", "the same token as before it")
        places[slot] = first + place
        text += prompt.words[slot]
    return {**places, "end": first + len(whole) - 1}


def alike(wording: Wording, templates: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """The templates that have the layout of the first."""
    expected = layout(wording, Prompt(templates[0], words))
    return [text for text in templates if layout(wording, Prompt(text, words)) == expected]


def distinct(
    wording: Wording, draw: Callable[[random.Random], Pair], *, n: int, seed: int
) -> list[Pair]:
    """`n` pairs whose bases or answers differ; raises ConfigError where so many are not found."""
    rng, found = random.Random(seed), dict[tuple[str, str], Pair]()
    for _ in range(100 * n):
        if len(found) == n:
            break
        pair = draw(rng)
        found[str(pair.base), pair.answer] = pair
    if n < 1 or len(found) < n:
        raise wording.error(f"n={n}", f"1 to {len(found)} different prompts")
    return list(found.values())
