import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests.cases import HAS_HOOKED_TRANSFORMER
from tl_transcoders.demo.data import training_tokens
from tl_transcoders.demo.loading import DATA, MODEL, load_hooked, load_model
from tl_transcoders.demo.make_model import Recipe, make_model, measure, save
from tl_transcoders.demo.measure import HELD_OUT, TRAINED_ON, mean_score
from tl_transcoders.errors import ConfigError


@pytest.mark.cases
def test_the_model_prefers_later_years_also_for_pairs_it_never_saw() -> None:
    model = load_model()
    assert mean_score(model, HELD_OUT) > 0.9
    assert mean_score(model, TRAINED_ON[:30]) > 0.9


def test_the_record_is_that_of_the_model() -> None:
    record = json.loads((MODEL / "record.json").read_text())
    measured = record["measured"]
    assert mean_score(load_model()) == pytest.approx(measured["score_held_out"], abs=2e-4)
    assert measured["score_without_mlps"] < 0.1
    assert measured["score_with_mean_mlps"] < 0.1


@pytest.mark.cases
def test_compatibility_mode_predicts_the_same() -> None:
    tokens = training_tokens(5, seed=0)
    plain, folded = (load_model(compatibility=c)(tokens).log_softmax(-1) for c in (False, True))
    torch.testing.assert_close(plain, folded, atol=1e-4, rtol=0)


@pytest.mark.cases
@pytest.mark.skipif(not HAS_HOOKED_TRANSFORMER, reason="transformer-lens 3.9 only")
@pytest.mark.parametrize("processed", [False, True])
def test_both_hosts_give_the_same_logits(processed: bool) -> None:
    tokens = training_tokens(5, seed=0)
    hooked, bridge = load_hooked(processed=processed), load_model(compatibility=processed)
    torch.testing.assert_close(hooked(tokens), bridge(tokens), atol=1e-4, rtol=0)
    assert hooked.cfg.model_name == bridge.cfg.model_name == "year-span"
    hooked.blocks[1].mlp.b_out.data[0] += 1.0
    with pytest.raises(AssertionError):
        torch.testing.assert_close(hooked(tokens), bridge(tokens), atol=1e-4, rtol=0)


@pytest.mark.skipif(HAS_HOOKED_TRANSFORMER, reason="transformer-lens 4 only")
def test_hooked_transformer_is_refused_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match=r"has no HookedTransformer.*transformer-lens>=3\.9,<4"):
        load_hooked()


@pytest.mark.cases
def test_the_tokenizer_can_be_loaded_again_with_bos() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    assert tokenizer.init_kwargs["name_or_path"] == str(MODEL)
    again = AutoTokenizer.from_pretrained(MODEL, add_bos_token=True)
    assert again("The war")["input_ids"] == [
        tokenizer.bos_token_id,
        *tokenizer("The war")["input_ids"],
    ]
    assert len(again) == load_model().cfg.d_vocab


def test_a_recipe_gives_the_same_model_twice_and_saving_keeps_it(tmp_path: Path) -> None:
    first, second = (make_model(Recipe(steps=3, batch_size=2)) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    record = {"measured": measure(first)}
    save(first, tmp_path / "model", record)
    assert json.loads((tmp_path / "model" / "record.json").read_text()) == record
    again = type(first).from_pretrained(tmp_path / "model")
    tokens = training_tokens(2, seed=0)
    torch.testing.assert_close(again(tokens).logits, first(tokens).logits, atol=1e-5, rtol=0)


def test_the_data_folder_is_small() -> None:
    sizes = [path.stat().st_size for path in DATA.rglob("*") if path.is_file()]
    assert sum(sizes) < 12e6
