"""Decoders too large to be read before a splice: their rows are checked when features use them."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.cases import FEATURES, HOSTS, randomise, tokens
from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import resolve_host
from tl_transcoders.splice import finite, splice
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    TopK,
    Transcoder,
    TranscoderConfig,
)

pytestmark = pytest.mark.cases

NEVER_ACTIVE = 5


@pytest.fixture
def model() -> Any:
    return HOSTS[0].build()


@pytest.fixture(params=["transcoder", "cross-layer"])
def module(model: Any, request: pytest.FixtureRequest) -> Transcoder | CrossLayerTranscoder:
    folded = resolve_host(model).folded
    sizes = {"d_in": 20, "d_out": 20, "n_features": FEATURES, "activation": TopK(2)}
    if request.param == "transcoder":
        cfg = TranscoderConfig(layer=0, folded=folded, **sizes)
        made = randomise(Transcoder.init(cfg, seed=0))
    else:
        cfg = CrossLayerConfig(layers=(0, 1, 2), folded=folded, **sizes)
        made = randomise(CrossLayerTranscoder.init(cfg, seed=0))
    first(made.b_enc)[NEVER_ACTIVE] = -100
    return made


def first(weights: Any) -> torch.Tensor:
    """The tensor of layer 0, for a cross-layer decoder its rows for layer 0."""
    weight = weights[0] if isinstance(weights, nn.ParameterList) else weights
    return weight.data[0] if weight.ndim == 3 else weight.data


def test_rows_of_active_features(
    model: Any, module: Transcoder | CrossLayerTranscoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "CHECKED_WHOLE", 1)
    first(module.W_dec)[NEVER_ACTIVE, 3] = torch.inf
    with splice(model, module):
        assert model(tokens()).isfinite().all()
        first(module.W_dec)[:, 3] = torch.nan
        with pytest.raises(ConfigError, match="layer 0, W_dec of its active features"):
            model(tokens())


def test_an_edit_that_is_not_finite_is_no_fault_of_the_weights(
    model: Any, module: Transcoder | CrossLayerTranscoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "CHECKED_WHOLE", 1)

    def overflow(post: torch.Tensor, hook: object) -> torch.Tensor:
        return post * torch.inf

    with splice(model, module):
        model.run_with_hooks(tokens(), fwd_hooks=[("blocks.0.mlp.hook_post", overflow)])


def test_the_rest_is_checked_before(
    model: Any, module: Transcoder | CrossLayerTranscoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first(module.W_dec)[NEVER_ACTIVE, 3] = torch.inf
    with pytest.raises(ConfigError, match="W_dec"):
        splice(model, module)
    monkeypatch.setattr(finite, "CHECKED_WHOLE", 1)
    first(module.W_enc)[3, 2] = torch.nan
    with pytest.raises(ConfigError, match="W_enc"):
        splice(model, module)
