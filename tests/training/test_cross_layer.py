"""Training a cross-layer transcoder."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.training.models import config, model, tokens
from tests.training.toy import ROWS, batch
from tl_transcoders.errors import ConfigError
from tl_transcoders.training import StepReport, train_cross_layer
from tl_transcoders.training.cross_layer import CrossLayerFit
from tl_transcoders.training.start import initial_cross_layer
from tl_transcoders.training.stream import Batch, Position
from tl_transcoders.transcoders import (
    BatchTopK,
    CrossLayerConfig,
    CrossLayerTranscoder,
    JumpReLU,
    ReLU,
    TopK,
)

LAYERS = (1, 4, 5)
D_IN, D_OUT, FEATURES = 13, 11, 19


def toy_batch(number: int, scales: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Batch:
    """Every layer's output depends on the inputs of all layers up to it."""
    x = {layer: batch(10 * number + layer)[0] for layer in LAYERS}
    y, total = {}, torch.zeros(ROWS, D_OUT)
    for scale, layer in zip(scales, LAYERS, strict=True):
        total = total + batch(10 * number + layer)[1]
        y[layer] = scale * total
    return Batch(x=x, y=y, n_tokens=ROWS, following=Position())


def new_fit(activation: Any, **options: Any) -> CrossLayerFit:
    given = config(n_features=FEATURES, activation=activation, **options)
    cfg = given.cross_layer_config(layers=LAYERS, d_in=D_IN, d_out=D_OUT, folded=False)
    return CrossLayerFit(initial_cross_layer(cfg, seed=0), given)


@pytest.mark.parametrize("skip", [False, True])
def test_the_step_has_the_gradient_of_the_definition(skip: bool) -> None:
    fit = new_fit(TopK(3), skip=skip, betas=(0.0, 0.999))
    for i in range(3):
        fit.step(toy_batch(i), lr_scale=1.0)
    data, transcoder = toy_batch(3), fit.transcoders()
    y_hat = transcoder(data.x)
    fvus = [
        (y - y_hat[layer]).square().sum() / (y - y.mean(0)).square().sum()
        for layer, y in data.y.items()
    ]
    expected = dict(
        zip(
            [name for name, _ in transcoder.named_parameters()],
            torch.autograd.grad(sum(fvus) / 3, list(transcoder.parameters())),
            strict=True,
        )
    )
    report = fit.step(data, lr_scale=0.0)
    assert_close(report.fvu, float(sum(fvus).detach()) / 3, rtol=1e-5, atol=0)
    state = fit.state()
    for name, gradient in expected.items():
        if gradient.ndim == 3:
            found = torch.stack([state[f"adam.{name}.{j}/exp_avg"] for j in range(len(gradient))])
        else:
            found = state[f"adam.{name}/exp_avg"]
        found = found.T if name.startswith("W_enc") else found
        assert_close(found, gradient, rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("activation", "options"),
    [(ReLU(), {}), (JumpReLU(), {}), (TopK(5), {"skip": True}), (BatchTopK(5), {})],
    ids=repr,
)
def test_layers_learn_whatever_their_scales(activation: Any, options: dict[str, Any]) -> None:
    plain, scaled = (new_fit(activation, lr=1e-2, **options) for _ in range(2))
    for i in range(40):
        a = plain.step(toy_batch(i), lr_scale=1.0)
        b = scaled.step(toy_batch(i, (1.0, 128.0, 1 / 64)), lr_scale=1.0)
        if i < 10:
            assert_close(a.fvu, b.fvu, rtol=1e-5, atol=0)
    assert a.fvu < 0.7
    assert b.fvu < 0.7


def test_a_seed_gives_the_same_bytes_and_a_frozen_module() -> None:
    def run(seed: int) -> CrossLayerTranscoder:
        return train_cross_layer(model(), config=config(n_tokens=300, seed=seed), tokens=tokens())

    first, second, other = run(0), run(0), run(1)
    assert first.layers == (0, 1, 2)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not p.requires_grad
    assert not torch.equal(first.W_enc[0], other.W_enc[0])


def test_it_learns_a_model() -> None:
    reports: list[StepReport] = []
    found = train_cross_layer(
        model(),
        layers=[2, 1],
        config=config(),
        tokens=tokens(),
        on_step=lambda _, report: reports.append(report),
    )
    assert isinstance(found.cfg, CrossLayerConfig)
    assert found.layers == (1, 2)
    assert reports[-1].fvu < 0.6 * reports[0].fvu


def test_bad_input() -> None:
    given = config(activation=ReLU(), unit_norm_decoder=True)
    with pytest.raises(ConfigError, match="True for a cross-layer transcoder"):
        train_cross_layer(model(), config=given, tokens=tokens())
    with pytest.raises(ConfigError, match="expected a transcoder"):
        train_cross_layer(
            model(), config=config(read="resid_post", write="resid_post"), tokens=tokens()
        )
    with pytest.raises(ConfigError, match="at least one layer"):
        train_cross_layer(model(), layers=[], config=config(), tokens=tokens())
