"""Transcoders of prime sizes in which no weight is zero, and their comparison bit by bit."""

import torch
from torch import nn

from tl_transcoders.transcoders import (
    Activation,
    BatchTopK,
    CrossLayerConfig,
    CrossLayerTranscoder,
    JumpReLU,
    ReLU,
    TopK,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)

RELU = ReLU()
ACTIVATIONS: tuple[Activation, ...] = (RELU, JumpReLU(), TopK(2), BatchTopK(3))


def randomise(module: nn.Module, *, seed: int, dtype: torch.dtype = torch.float32) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.data = parameter.data.to(dtype)
        parameter.data.copy_(values)


def transcoder(
    layer: int = 3,
    *,
    seed: int = 0,
    d_in: int = 5,
    d_out: int = 7,
    n_features: int = 11,
    activation: Activation = RELU,
    skip: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Transcoder:
    cfg = TranscoderConfig(
        layer=layer,
        d_in=d_in,
        d_out=d_out,
        n_features=n_features,
        activation=activation,
        skip=skip,
        folded=True,
    )
    made = Transcoder.init(cfg, seed=seed)
    randomise(made, seed=seed, dtype=dtype)
    return made


def transcoder_set(*layers: int) -> TranscoderSet:
    return TranscoderSet({layer: transcoder(layer, seed=layer) for layer in layers})


def cross_layer(
    *,
    activation: Activation = RELU,
    skip: bool = True,
    dtype: torch.dtype = torch.float32,
) -> CrossLayerTranscoder:
    cfg = CrossLayerConfig(
        layers=(1, 2, 5), d_in=5, d_out=7, n_features=11, activation=activation, skip=skip
    )
    made = CrossLayerTranscoder.init(cfg, seed=0)
    randomise(made, seed=1, dtype=dtype)
    return made


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    """Same class, same config, same bits."""
    assert type(found) is type(expected)
    assert found.cfg == expected.cfg
    weights = found.state_dict()
    assert weights.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0, equal_nan=True)
        assert weights[name].stride() == tensor.stride(), name
