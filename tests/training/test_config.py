import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from torch.testing import assert_close

from tl_transcoders.errors import ConfigError
from tl_transcoders.training import TrainConfig
from tl_transcoders.training.loop import lr_scale
from tl_transcoders.transcoders import BatchTopK, JumpReLU, ReLU, TopK

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no features": ({"n_features": 0}, "n_features=0; expected 1 or more"),
    "k": ({"n_features": 31}, "k=32; expected at most the width, 31 features"),
    "taps": ({"read": "mlp_out"}, "read='mlp_out', write='mlp_out_raw'; expected a transc"),
    "tokens": ({"n_tokens": -5}, "TrainConfig.n_tokens: got -5; expected an integer above 0"),
    "bool": ({"n_tokens": True}, "TrainConfig.n_tokens: got True; expected an integer above 0"),
    "batch": ({"batch_size": 0}, "TrainConfig.batch_size: got 0; expected an integer above 0"),
    "shuffle": ({"shuffle": -1}, "TrainConfig.shuffle: got -1"),
    "context": ({"context": 0}, "TrainConfig.context: got 0"),
    "every": ({"checkpoint_every": 0}, "TrainConfig.checkpoint_every: got 0"),
    "lr": ({"lr": 0.0}, "TrainConfig.lr: got 0.0; expected more than 0"),
    "nan": ({"lr": float("nan")}, "TrainConfig.lr: got nan; expected more than 0"),
    "betas": ({"betas": (0.9, 1.0)}, "TrainConfig.betas: got (0.9, 1.0); expected two numbers in"),
    "warmup": ({"warmup": 1.5}, "TrainConfig.warmup: got 1.5; expected a share between 0 and 1"),
    "decay": ({"decay": -0.1}, "TrainConfig.decay: got -0.1; expected a share between 0 and 1"),
    "auxk": ({"auxk": -1.0}, "TrainConfig.auxk: got -1.0; expected 0 or more"),
    "l1": (
        {"l1": 0.1},
        "TrainConfig.l1: got 0.1 with TopK(k=32); expected None, because only ReLU",
    ),
    "sparsity": ({"sparsity": 0.1}, "expected None, because only JumpReLU uses it"),
    "bandwidth": (
        {"bandwidth": 0.1, "activation": ReLU()},
        "TrainConfig.bandwidth: got 0.1 with ReLU(); expected None",
    ),
    "window": ({"bandwidth": 0.0, "activation": JumpReLU()}, "TrainConfig.bandwidth: got 0.0"),
    "sae": ({"read": "resid_post"}, "TrainConfig: got read='resid_post', write='mlp_out_raw'; exp"),
    "sae, what to do": ({"read": "z"}, "For an SAE also set write='z'."),
    "sae with a skip": (
        {"read": "z", "write": "z", "skip": True},
        "TrainConfig: got skip=True for an SAE",
    ),
    "never dead": (
        {"dead_after": 100, "n_tokens": 100},
        "TrainConfig.dead_after: got 100 for a run of 100 tokens; expected fewer tokens",
    ),
    "unit norm": ({"unit_norm_decoder": True}, "TrainConfig.unit_norm_decoder: got True with TopK"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_contradictions(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        TrainConfig(**{"n_features": 64, **change})
    assert message in str(raised.value)


def test_unknown_and_positional_options() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        TrainConfig(n_features=64, learning_rate=1e-3)
    with pytest.raises(TypeError, match="positional"):
        TrainConfig(64)


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig(n_features=64).lr = 0.1


def test_when_a_feature_is_dead() -> None:
    assert TrainConfig(n_features=64).silence == 1_000_000
    assert TrainConfig(n_features=64, n_tokens=10_000_000).silence == 1_000_000
    assert TrainConfig(n_features=64, n_tokens=1000).silence == 250
    assert TrainConfig(n_features=64, n_tokens=1000, dead_after=999).silence == 999
    assert TrainConfig(n_features=64, n_tokens=10, dead_after=99, auxk=0.0).silence == 99


def test_learning_rate() -> None:
    assert TrainConfig(n_features=64, lr=0.3).learning_rate == 0.3
    assert_close(TrainConfig(n_features=2**16, data_units=False).learning_rate, 1e-4)
    assert_close(TrainConfig(n_features=2**16).learning_rate, 1e-3)
    assert TrainConfig(n_features=64).learning_rate == 5e-3


def test_weights_belong_to_their_activation() -> None:
    found = [
        (config.l1_weight, config.l0_weight)
        for config in (
            TrainConfig(n_features=64, activation=ReLU()),
            TrainConfig(n_features=64, activation=ReLU(), l1=0.0),
            TrainConfig(n_features=64, activation=JumpReLU()),
            TrainConfig(n_features=64, activation=JumpReLU(), sparsity=0.5),
            TrainConfig(n_features=64, activation=BatchTopK(3)),
        )
    ]
    assert found == [(0.03, 0.0), (0.0, 0.0), (0.0, 0.001), (0.0, 0.5), (0.0, 0.0)]


def test_schedule() -> None:
    config = TrainConfig(n_features=64, warmup=0.1, decay=0.5)
    found = [lr_scale(share, config) for share in (0.0, 0.05, 0.1, 0.5, 0.75, 1.0, 1.01)]
    assert_close(found, [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0])
    flat = TrainConfig(n_features=64, warmup=0.0, decay=0.0)
    assert [lr_scale(share, flat) for share in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]


def test_it_is_plain_data() -> None:
    plain = TrainConfig(
        n_features=64, activation=TopK(7), exclude=(0, 2), checkpoint=Path("a")
    ).to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["activation"] == {"kind": "topk", "k": 7}
