"""The fetched models are the models they claim to be, on both lines of transformer-lens."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from examples.real_models import gemma3, load_bridge, smollm2
from examples.real_text import english_text, token_batches

pytestmark = [pytest.mark.real]

PROSE = (
    "Photosynthesis is the process by which green plants and some other organisms use sunlight to synthesize"
    " nutrients from carbon dioxide and water. Photosynthesis in plants generally involves the green pigment"
    " chlorophyll and generates oxygen as a by-product."
)


@pytest.mark.cases
def test_smollm2_knows_the_capital_of_france() -> None:
    model = load_bridge(smollm2())
    with torch.no_grad():
        logits = model(model.to_tokens("The capital of France is", prepend_bos=False))
    assert model.tokenizer.decode(logits[0, -1].argmax()) == " Paris"


# SmolLM2's BOS is the chat marker <|im_start|>, which plain prose does not follow; Gemma needs its BOS.
@pytest.mark.cases
@pytest.mark.parametrize(("folder", "bos", "nats"), [(smollm2, False, 2.5), (gemma3, True, 2.0)])
def test_prose_costs_what_it_should(folder: Callable[[], Path], bos: bool, nats: float) -> None:
    model = load_bridge(folder())
    with torch.no_grad():
        loss = model(model.to_tokens(PROSE, prepend_bos=bos), return_type="loss")
    assert loss.item() < nats


def test_text_is_long_and_in_a_seeded_order() -> None:
    path = english_text()
    assert path.stat().st_size >= 12_000_000
    tokenizer = AutoTokenizer.from_pretrained(smollm2(), local_files_only=True)
    first = token_batches(tokenizer, path, limit=10_000)
    more = token_batches(tokenizer, path, limit=100_000)
    assert first.shape == (78, 128)
    assert more.shape == (781, 128)
    assert torch.equal(first, more[:78])
    assert not set(tokenizer.all_special_ids) & set(more.unique().tolist())
