"""A few sentences of plain text as tokens, for checks that were given none."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import AbstractHost

LENGTH = 64
MAX_PROMPTS = 6
TEXT = """
The harbour had been closed since Thursday, and by the weekend every hotel within ten miles was full. Most of the
stranded passengers were on their way home from the islands; a few had been travelling to a wedding in the north. "We
will open again when the wind drops below forty knots," said the port manager, who had not slept for two nights.
Meteorologists expect the storm to weaken on Monday. In 1987 a similar storm kept the ferries in port for nine days
and cost the region about 12 million dollars.

To make the soup, chop two onions and a carrot, and cook them slowly in butter until they are soft. Add a litre of
stock, 300 grams of lentils and a bay leaf, then let everything simmer for half an hour. Season with salt, pepper and
the juice of a lemon before you serve it. It keeps for three days in the fridge and tastes better on the second.

A prime number is a natural number greater than one that is not a product of two smaller natural numbers. There are
infinitely many of them, as Euclid proved around 300 BC. The function below returns True if n is prime:

def is_prime(n):
    if n < 2:
        return False
    for i in range(2, int(n ** 0.5) + 1):
        if n % i == 0:
            return False
    return True

She put the letter back in its envelope and looked out of the window. Her brother had left Berlin in the spring, that
much was certain, but nobody at the university could tell her where he had gone or why his desk was empty. The last
train to Vienna would leave at a quarter past eleven. If she hurried, she could still be on it.
"""


def sample_tokens(host: AbstractHost) -> Int[Tensor, "batch pos"]:
    """A few hundred tokens of news, a recipe, mathematics, code and a story, each prompt led by BOS where there is one.

    Random tokens where the tokenizer does not know most of the words. Raises ConfigError without a tokenizer.
    """
    tokenizer = host.tokenizer
    if tokenizer is None:
        raise ConfigError(
            "check=True",
            got="a model without a tokenizer",
            expected="a tokenizer, to make tokens of a few sentences",
            do="Pass tokens: check=tokens.",
        )
    ids = torch.tensor(tokenizer(TEXT.strip(), add_special_tokens=False)["input_ids"])
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and (ids == unknown).float().mean() > 0.5:
        ids = _random_ids(tokenizer, len(ids))
    length = min(LENGTH, host.n_ctx, len(ids))
    rows = ids[: len(ids) // length * length].view(-1, length)[:MAX_PROMPTS]
    bos = getattr(tokenizer, "bos_token_id", None)
    return rows if bos is None else torch.cat([torch.full((len(rows), 1), bos), rows[:, :-1]], 1)


def _random_ids(tokenizer: Any, n: int) -> Int[Tensor, " n"]:
    special = set(tokenizer.all_special_ids)
    ordinary = [i for i in sorted(tokenizer.get_vocab().values()) if i not in special]
    drawn = torch.randint(len(ordinary), (n,), generator=torch.Generator().manual_seed(0))
    return torch.tensor(ordinary)[drawn]
