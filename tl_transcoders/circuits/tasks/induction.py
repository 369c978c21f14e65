"""Random tokens, repeated."""

import random
from typing import Any

import torch

from tl_transcoders.circuits.metrics import LogitDiff
from tl_transcoders.circuits.tasks.task import Task
from tl_transcoders.circuits.tasks.wording import Wording


def induction(
    tokenizer: Any, *, n: int = 64, length: int = 12, prepend_bos: bool = True, seed: int = 0
) -> Task:
    """`… A B … C D … A` → `B`, not `D`; the source has A and C in each other's place before the last token.

    `length` random words are followed by the first of them again, up to A. Positions: A, B, C, D, end; the
    tokens at A to D differ in every prompt, and all prompts have them at the same places.

    Source: Olsson et al. 2022, In-context Learning and Induction Heads.
    """
    wording = Wording("induction", tokenizer, prepend_bos)
    if length < 6 or n < 1:
        raise wording.error(f"length={length}, n={n}", "length at least 6 and n at least 1")
    rng = random.Random(seed)
    a, c = length // 2, length // 4 - 1
    bases, sources = [], []
    for _ in range(n):
        words = _words(wording, rng, length)
        swapped = [*words]
        swapped[a], swapped[c] = words[c], words[a]
        again = words[: a + 1]
        bases.append([*wording.bos, *words, *again])
        sources.append([*wording.bos, *swapped, *again])
    base, first = torch.tensor(bases), len(wording.bos)
    places = {"A": first + a, "B": first + a + 1, "C": first + c, "D": first + c + 1}
    return Task(
        name=wording.task,
        base=base,
        source=torch.tensor(sources),
        metric=LogitDiff(base[:, places["B"]], base[:, places["D"]]),
        positions={**places, "end": base.shape[1] - 1},
    )


def _words(wording: Wording, rng: random.Random, n: int) -> list[int]:
    """Different tokens that are words by themselves."""
    vocab, special = len(wording.tokenizer), set(wording.tokenizer.all_special_ids)
    found = dict[int, None]()
    for _ in range(1000 * n):
        token = rng.randrange(vocab)
        word = wording.tokenizer.decode([token]).strip()
        if token not in special and word.isalnum() and word.isascii():
            found[token] = None
        if len(found) == n:
            return list(found)
    raise wording.error(f"{len(found)} different words", f"at least {n} in the vocabulary")
