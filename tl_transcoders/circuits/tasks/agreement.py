"""Subject-verb agreement."""

import random
from typing import Any, Final, Literal

from tl_transcoders.circuits.tasks.choice import choice
from tl_transcoders.circuits.tasks.task import Task
from tl_transcoders.circuits.tasks.wording import Pair, Prompt, Wording, distinct
from tl_transcoders.circuits.tasks.words import NOUNS, VERBS

Clause = Literal["none", "prepositional", "relative"]
"""What stands between the subject and its verb."""

_TEMPLATES: Final = {
    "none": "The {subject}",
    "prepositional": "The {subject} near the {other}",
    "relative": "The {subject} that the {other} liked",
}


def agreement(
    tokenizer: Any,
    *,
    n: int = 64,
    clause: Clause = "prepositional",
    prepend_bos: bool = True,
    seed: int = 0,
) -> Task:
    """`The doctors near the king` → ` are`, not ` is`; the source has the subject in its other number.

    Half of the subjects are singular, and so are half of the other nouns. Positions: subject, other, end.

    Source: Finlayson et al. 2021, Causal Analysis of Syntactic Agreement Mechanisms.
    """
    wording = Wording("agreement", tokenizer, prepend_bos)
    template = _TEMPLATES[clause]
    nouns = [pair for pair in NOUNS if len(wording.single(pair)) == 2]
    nouns = wording.enough(nouns, 2, "nouns in both numbers")
    verbs = [pair for pair in VERBS if len(wording.single(pair)) == 2]
    verbs = wording.enough(verbs, 1, "verbs in both numbers")

    def draw(rng: random.Random) -> Pair:
        number, (subject, other), verb = rng.randrange(2), rng.sample(nouns, 2), rng.choice(verbs)
        words = {"other": other[rng.randrange(2)]} if clause != "none" else {}
        base = Prompt(template, {"subject": subject[number], **words})
        source = Prompt(template, {"subject": subject[1 - number], **words})
        return Pair(base, source, verb[number], verb[1 - number])

    return choice(wording, distinct(wording, draw, n=n, seed=seed))
