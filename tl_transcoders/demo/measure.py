"""How well a model prefers later years, on pairs of noun and century seen and never seen in training."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from tl_transcoders.demo.data import greater_than_score, is_held_out, prompt_tokens
from tl_transcoders.demo.vocabulary import CENTURIES, NOUNS

Logits = Callable[[Tensor], Tensor]
"""Token ids `[batch pos]` to logits `[batch pos vocab]`."""

Pair = tuple[str, int]
"""A noun, and the century its span lies in."""

_PAIRS = tuple((noun, century) for noun in NOUNS for century in CENTURIES)
HELD_OUT: tuple[Pair, ...] = tuple(pair for pair in _PAIRS if is_held_out(*pair))
TRAINED_ON: tuple[Pair, ...] = tuple(pair for pair in _PAIRS if not is_held_out(*pair))


@torch.no_grad()
def mean_score(logits: Logits, pairs: Iterable[Pair] = HELD_OUT) -> float:
    """Greater-than score, averaged over the pairs and over YY = 01 … 98."""
    scores = []
    for noun, century in pairs:
        tokens, years = prompt_tokens(noun, century)
        scores.append(greater_than_score(logits(tokens)[:, -1], years).mean())
    return float(torch.stack(scores).mean())
