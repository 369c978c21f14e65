"""Indirect object identification."""

import random
from typing import Any, Final, Literal

from tl_transcoders.circuits.tasks.choice import choice
from tl_transcoders.circuits.tasks.task import Task
from tl_transcoders.circuits.tasks.wording import Pair, Prompt, Wording, alike, distinct
from tl_transcoders.circuits.tasks.words import MEN, OBJECTS, PLACES, WOMEN

Order = Literal["ABBA", "BABA"]
"""Whether the indirect object is named before the subject or after it."""

Corruption = Literal["swap", "names"]
"""What a source prompt changes: who acts (its answer is the other name), or all three names, to different ones."""

_NAMED: Final = {"ABBA": "{IO} and {S1}", "BABA": "{S1} and {IO}"}
_TEMPLATES: Final = (
    "When NAMED went to the {place}, {S2} gave a {object} to",
    "When NAMED got to the {place}, {S2} handed a {object} to",
    "While NAMED were at the {place}, {S2} offered a {object} to",
    "After NAMED walked to the {place}, {S2} gave the {object} to",
)


def ioi(
    tokenizer: Any,
    *,
    n: int = 64,
    order: Order = "ABBA",
    corruption: Corruption = "swap",
    prepend_bos: bool = True,
    seed: int = 0,
) -> Task:
    """`When Mary and John went to the store, John gave a book to` → ` Mary`, not ` John`.

    Positions: IO, S1, S2, place, object, end.

    Source: Wang et al. 2022, Interpretability in the Wild.
    """
    wording = Wording("ioi", tokenizer, prepend_bos)
    names = wording.enough(wording.single([*MEN, *WOMEN]), 5, "names")
    places = wording.enough(wording.single(PLACES), 1, "places")
    objects = wording.enough(wording.single(OBJECTS), 1, "objects")
    templates = [text.replace("NAMED", _NAMED[order]) for text in _TEMPLATES]
    sample = {"IO": names[0], "S1": names[1], "S2": names[1]}
    templates = alike(wording, templates, {**sample, "place": places[0], "object": objects[0]})

    def draw(rng: random.Random) -> Pair:
        template, (a, b, c, d, e) = rng.choice(templates), rng.sample(names, 5)
        rest = {"place": rng.choice(places), "object": rng.choice(objects)}
        base = {"IO": a, "S1": b, "S2": b, **rest}
        change = {"S2": a} if corruption == "swap" else {"IO": c, "S1": d, "S2": e}
        return Pair(Prompt(template, base), Prompt(template, {**base, **change}), a, b)

    return choice(wording, distinct(wording, draw, n=n, seed=seed))
