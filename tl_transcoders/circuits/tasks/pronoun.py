"""Gendered pronouns."""

import random
from typing import Any, Final

from tl_transcoders.circuits.tasks.choice import choice
from tl_transcoders.circuits.tasks.task import Task
from tl_transcoders.circuits.tasks.wording import Pair, Prompt, Wording, alike, distinct
from tl_transcoders.circuits.tasks.words import MEN, WOMEN

_TEMPLATES: Final = (
    "So {name} is a really great friend, isn't",
    "So {name} was a really good student, wasn't",
    "So {name} is a very kind neighbor, isn't",
)


def pronoun(tokenizer: Any, *, n: int = 64, prepend_bos: bool = True, seed: int = 0) -> Task:
    """`So Mary is a really great friend, isn't` → ` she`, not ` he`; the source has a name of the other gender.

    Positions: name, end.

    Source: Mathwin et al. 2023, Identifying a Preliminary Circuit for Predicting Gendered Pronouns in GPT-2 Small.
    """
    wording = Wording("pronoun", tokenizer, prepend_bos)
    names = {
        "he": wording.enough(wording.single(MEN), 1, "names of men"),
        "she": wording.enough(wording.single(WOMEN), 1, "names of women"),
    }
    templates = alike(wording, _TEMPLATES, {"name": names["he"][0]})

    def draw(rng: random.Random) -> Pair:
        template, (answer, wrong) = rng.choice(templates), rng.sample(["he", "she"], 2)
        base = Prompt(template, {"name": rng.choice(names[answer])})
        source = Prompt(template, {"name": rng.choice(names[wrong])})
        return Pair(base, source, answer, wrong)

    return choice(wording, distinct(wording, draw, n=n, seed=seed))
