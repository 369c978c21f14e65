import json
from typing import get_args

import pytest
import torch
from jaxtyping import TypeCheckError

from tl_transcoders.demo.data import PROMPT, prompt_tokens, training_tokens
from tl_transcoders.demo.features import active_features
from tl_transcoders.demo.loading import DATA, KINDS, NAME, Kind, load_model, load_transcoders
from tl_transcoders.demo.make_transcoders import CONFIGS
from tl_transcoders.demo.measure import HELD_OUT, mean_score
from tl_transcoders.errors import ConfigError
from tl_transcoders.evaluation import evaluate
from tl_transcoders.splice import splice
from tl_transcoders.transcoders import TranscoderSet

KEPT: dict[Kind, float] = {"relu": 0.8, "topk": 0.8, "skip": 0.8, "sae": 0.8, "clt": 0.8}


def test_every_kind_is_shipped_and_has_a_config() -> None:
    assert set(CONFIGS) == set(KINDS) == set(get_args(Kind))
    for kind in KINDS:
        transcoders = load_transcoders(kind)
        assert transcoders.layers == (0, 1, 2, 3)
        assert not isinstance(transcoders, TranscoderSet) or transcoders.origin.model_name == NAME


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises((ConfigError, TypeCheckError), match=r"relu.*topk.*skip.*sae.*clt"):
        load_transcoders("gated")  # pyright: ignore[reportArgumentType]


@pytest.mark.cases
@pytest.mark.parametrize("kind", KINDS)
def test_the_spliced_model_keeps_the_score(kind: Kind) -> None:
    model = load_model()
    before = model(PROMPT)
    with splice(model, load_transcoders(kind)) as spliced:
        assert mean_score(model, HELD_OUT[:6]) > KEPT[kind]
        report = evaluate(spliced, training_tokens(16, seed=-2), batch_size=16)
    assert all(layer.fvu < 0.1 for layer in report.layers.values())
    assert torch.equal(model(PROMPT), before)


def test_the_record_is_that_of_the_transcoders() -> None:
    record = json.loads((DATA / "transcoders.json").read_text())
    assert set(record) == set(KINDS)
    model = load_model()
    for kind in KINDS:
        assert record[kind]["config"] == CONFIGS[kind].to_dict()
        with splice(model, load_transcoders(kind)):
            score = mean_score(model)
        assert record[kind]["measured"]["score"] == pytest.approx(score, abs=2e-4)


def test_features_of_a_cross_layer_transcoder_are_refused() -> None:
    model = load_model()
    with (
        splice(model, load_transcoders("clt")) as spliced,
        pytest.raises(ConfigError, match="got a cross-layer transcoder"),
    ):
        active_features(spliced, model.to_tokens(PROMPT))


def test_pushes_are_the_direct_effect_on_the_logits() -> None:
    model = load_model()
    tokens = prompt_tokens("war", 17)[0][41:42]
    with splice(model, load_transcoders("skip")) as spliced:
        logits, cache = model.run_with_cache(tokens)
        found = active_features(spliced, tokens)
        scale = cache["ln_final.hook_scale"]
        hold = [("ln_final.hook_scale", lambda value, hook: scale.clone())]
        for feature in (f for f in found if f.layer == 3):
            with model.hooks(fwd_hooks=hold):
                without = feature.without(model)(tokens)
            change = (logits - without)[0, -1]
            torch.testing.assert_close(change - change.mean(), feature.push, atol=1e-3, rtol=0)
