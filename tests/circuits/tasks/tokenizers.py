"""Tokenizers of whole words: one splits years in two, the other into digits."""

import re
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tl_transcoders.circuits.tasks import words

TEXT = (
    "When While After and went got walked were at to the The a gave handed offered , So is was really great good"
    " very kind student isn wasn ' t near that liked lasted from year he she"
)
NUMBERS = {"pairs": r" ?\d{2}", "digits": r"\d| "}


@cache
def word_tokenizer(numbers: str = "pairs") -> PreTrainedTokenizerFast:
    listed = [*words.MEN, *words.WOMEN, *words.PLACES, *words.OBJECTS, *words.SPANS]
    listed += [word for pair in (*words.NOUNS, *words.VERBS) for word in pair]
    plain = list(dict.fromkeys(["<bos>", "<unk>", *TEXT.split(), *listed]))
    years = [str(i) for i in range(10)] + [f"{i:02d}" for i in range(100)] + [" 17", " 11"]
    pieces = [
        *plain,
        *(f" {word}" for word in plain if re.fullmatch("[A-Za-z]+", word)),
        *years,
        " ",
    ]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    pattern = rf" ?[A-Za-z]+|{NUMBERS[numbers]}|[^A-Za-z0-9]"
    core.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", unk_token="<unk>")
