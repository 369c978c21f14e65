import random

import pytest
import torch

from tl_transcoders.demo.data import (
    PROMPT,
    SEQUENCE_LENGTH,
    greater_than_score,
    prompt,
    prompt_tokens,
    sentence,
    token_ids,
    training_tokens,
)
from tl_transcoders.demo.loading import load_model
from tl_transcoders.demo.measure import HELD_OUT, TRAINED_ON
from tl_transcoders.demo.vocabulary import CENTURIES, NOUNS, VOCABULARY, two_digit_ids


def test_the_prompt_is_the_one_of_the_template() -> None:
    assert prompt("war", 17, 42) == PROMPT


def test_a_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    tokens = training_tokens(5, seed=3)
    assert tokens.shape == (5, SEQUENCE_LENGTH)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, training_tokens(5, seed=3))
    assert torch.equal(tokens[:2], training_tokens(2, seed=3))
    assert not torch.equal(tokens, training_tokens(5, seed=4))


def test_a_seed_gives_these_tokens_on_every_machine() -> None:
    first, second = training_tokens(2, seed=0).tolist()
    assert first[:8] == [0, *token_ids("The trade of the year 1539")]
    assert second[1:7] == token_ids("The bishop remembered the peace near")


def test_spans_end_after_they_begin_and_leave_the_held_out_pairs_alone() -> None:
    rng = random.Random(0)
    spans = [s.split() for s in (sentence(rng) for _ in range(2000)) if " lasted " in s]
    assert len(spans) > 1000
    for words in spans:
        start, end = words[6], words[10].rstrip(".")
        assert start[:2] == end[:2]
        assert int(end) > int(start)
        assert (words[1], int(start[:2])) in TRAINED_ON


def test_every_pair_is_either_held_out_or_trained_on() -> None:
    assert {*HELD_OUT, *TRAINED_ON} == {(noun, c) for noun in NOUNS for c in CENTURIES}
    assert 0.15 < len(HELD_OUT) / (len(HELD_OUT) + len(TRAINED_ON)) < 0.25


def test_two_digit_ids_are_in_order() -> None:
    words = {number: word for word, number in VOCABULARY.items()}
    assert [words[int(i)] for i in two_digit_ids()] == [f"{n:02d}" for n in range(100)]


@pytest.mark.parametrize(
    ("token", "expected"), [("43", 1.0), ("42", -1.0), ("07", -1.0), (".", 0.0)]
)
def test_score_of_a_certain_prediction(token: str, expected: float) -> None:
    logits = torch.zeros(1, len(VOCABULARY))
    logits[0, VOCABULARY[token]] = 100.0
    assert greater_than_score(logits, torch.tensor([42])).item() == pytest.approx(expected)


def test_score_of_a_uniform_prediction() -> None:
    logits = torch.zeros(2, len(VOCABULARY))
    score = greater_than_score(logits, torch.tensor([42, 98]))
    expected = torch.tensor([57 - 43, 1 - 99]) / len(VOCABULARY)
    torch.testing.assert_close(score, expected)


def test_prompts_of_a_pair() -> None:
    tokens, years = prompt_tokens("siege", 13)
    assert years.tolist() == list(range(1, 99))
    assert tokens[41].tolist() == [
        0,
        *token_ids("The siege lasted from the year 1342 to the year 13"),
    ]


def test_the_tokenizer_gives_the_ids_of_the_generator_and_back() -> None:
    tokenizer, rng = load_model().tokenizer, random.Random(1)
    for _ in range(200):
        text = f"{sentence(rng)} {sentence(rng)}"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == token_ids(text)
        assert tokenizer.decode(ids) == text


def test_the_tokenizer_splits_a_year_in_two() -> None:
    model = load_model()
    assert model.to_str_tokens(PROMPT)[-6:] == [" 17", "42", " to", " the", " year", " 17"]
    assert model.to_tokens(PROMPT)[0].tolist() == prompt_tokens("war", 17)[0][41].tolist()
