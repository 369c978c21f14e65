"""Every fold against the published maths it replaces, in double precision."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tl_transcoders.hub.canonical import (
    Weights,
    fold_decoder_norms,
    fold_input_scale,
    fold_pre_bias,
    fold_scales,
    gated_as_jumprelu,
    threshold_of_decoder_norms,
)

D_IN, D_OUT, FEATURES = 5, 7, 11


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def weights() -> Weights:
    return Weights(
        W_enc=normal(D_IN, FEATURES),
        b_enc=normal(FEATURES),
        W_dec=normal(FEATURES, D_OUT),
        b_dec=normal(D_OUT),
        threshold=normal(FEATURES).abs(),
    )


@pytest.fixture
def x() -> Tensor:
    return normal(13, D_IN)


def pre(w: Weights, x: Tensor) -> Tensor:
    return x @ w.W_enc + w.b_enc


def output(w: Weights, x: Tensor) -> Tensor:
    assert w.threshold is not None
    return (pre(w, x).relu() * (pre(w, x) > w.threshold)) @ w.W_dec + w.b_dec


def test_a_pre_bias(weights: Weights, x: Tensor) -> None:
    bias = normal(D_IN)
    folded = fold_pre_bias(weights, bias)
    torch.testing.assert_close(output(folded, x), output(weights, x - bias))
    torch.testing.assert_close(pre(folded, x), pre(weights, x - bias))


def test_an_input_scale(weights: Weights, x: Tensor) -> None:
    folded = fold_input_scale(weights, 1.7)
    torch.testing.assert_close(output(folded, x), output(weights, 1.7 * x) / 1.7)


def test_decoder_norms(weights: Weights, x: Tensor) -> None:
    norms = weights.W_dec.norm(dim=-1)
    folded = fold_decoder_norms(weights)
    torch.testing.assert_close(pre(folded, x), pre(weights, x) * norms)
    torch.testing.assert_close(folded.W_dec.norm(dim=-1), torch.ones_like(norms))
    kept = pre(weights, x) * norms > weights.threshold
    expected = (pre(weights, x).relu() * kept) @ weights.W_dec + weights.b_dec
    torch.testing.assert_close(output(folded, x), expected)


def test_a_decoder_of_zeros_has_no_norm_to_fold(weights: Weights, x: Tensor) -> None:
    weights.W_dec[4] = 0
    assert fold_decoder_norms(weights).W_dec[4].eq(0).all()
    assert output(fold_decoder_norms(weights), x).isfinite().all()


def test_a_gate(weights: Weights, x: Tensor) -> None:
    r_mag, b_mag, b_gate = normal(FEATURES), normal(FEATURES), normal(FEATURES)
    folded = gated_as_jumprelu(
        weights.W_enc, weights.W_dec, weights.b_dec, r_mag=r_mag, b_mag=b_mag, b_gate=b_gate
    )
    gate = x @ weights.W_enc + b_gate > 0
    magnitude = (x @ (weights.W_enc * r_mag.exp()) + b_mag).relu()
    assert (gate & (magnitude == 0)).any()
    assert (~gate & (magnitude > 0)).any()
    expected = (gate * magnitude) @ weights.W_dec + weights.b_dec
    torch.testing.assert_close(output(folded, x), expected)


def test_the_comparison_sees_one_changed_weight(weights: Weights, x: Tensor) -> None:
    bias = normal(D_IN)
    folded = fold_pre_bias(weights, bias)
    b_enc = folded.b_enc.clone()
    b_enc[3] += 1e-3
    with pytest.raises(AssertionError):
        torch.testing.assert_close(pre(replace(folded, b_enc=b_enc), x), pre(weights, x - bias))


@pytest.mark.parametrize(("scale_in", "scale_out"), [(1.7, 1.7), (1.7, 0.4)])
def test_scales_of_input_and_output(
    weights: Weights, x: Tensor, scale_in: float, scale_out: float
) -> None:
    folded = fold_scales(weights, scale_in=scale_in, scale_out=scale_out)
    torch.testing.assert_close(output(folded, x), output(weights, scale_in * x) / scale_out)
    assert folded.W_enc is weights.W_enc


@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_a_threshold_of_decoder_norms(weights: Weights, x: Tensor, threshold: float) -> None:
    weights.W_dec[4] = 0
    found = pre(weights, x) > threshold_of_decoder_norms(weights.W_dec, threshold)
    assert torch.equal(found, pre(weights, x) * weights.W_dec.norm(dim=-1) > threshold)
