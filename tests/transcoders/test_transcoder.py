"""The maths: dense and sparse routes, every activation, skips with d_in ≠ d_out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from tests.cases import randomise
from tl_transcoders.errors import ConfigError, ShapeError
from tl_transcoders.transcoders import (
    Activation,
    BatchTopK,
    CrossLayerConfig,
    CrossLayerTranscoder,
    JumpReLU,
    ReLU,
    SparseFeatures,
    TopK,
    Transcoder,
    TranscoderConfig,
    kernels,
)
from tl_transcoders.transcoders import encode as encode_module
from tl_transcoders.transcoders.kernels import row_dots, segment_sum

ACTIVATIONS: list[Activation] = [ReLU(), JumpReLU(), TopK(3), BatchTopK(3)]
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
D_IN, D_OUT, FEATURES = 5, 7, 11


def build(activation: Activation, *, skip: bool = True) -> Transcoder:
    cfg = TranscoderConfig(
        layer=0, d_in=D_IN, d_out=D_OUT, n_features=FEATURES, activation=activation, skip=skip
    )
    return randomise(Transcoder.init(cfg, seed=0)).double().requires_grad_(True)


def values_and_gradients(transcoder: Transcoder, compute: Callable[[Tensor], Tensor]) -> list[Any]:
    x = torch.randn(3, 13, D_IN, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    transcoder.zero_grad()
    y = compute(x)
    (y * torch.arange(D_OUT)).sin().sum().backward()
    grads = {name: p.grad for name, p in transcoder.named_parameters() if name != "threshold"}
    return [y.detach(), x.grad, grads]


@every_activation
def test_sparse_and_dense_routes_agree_in_value_and_gradient(activation: Activation) -> None:
    t = build(activation)
    dense = values_and_gradients(t, lambda x: t.decode(t.encode(x), x))
    sparse = values_and_gradients(t, lambda x: t.decode(t.encode_sparse(x), x))
    chosen = values_and_gradients(t, t)
    both = values_and_gradients(t, lambda x: t.decode(t.features_and_dense(x)[1], x))
    for other in (sparse, chosen, both):
        torch.testing.assert_close(other, dense)


@every_activation
def test_the_routes_disagree_when_one_weight_does(activation: Activation) -> None:
    t, other = build(activation), build(activation)
    with torch.no_grad():
        other.W_dec[:, 2] += 0.01
    x = torch.randn(3, 13, D_IN, dtype=torch.double)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            t.decode(t.encode(x), x), other.decode(other.encode_sparse(x), x)
        )


def test_the_equation_by_hand() -> None:
    t = build(ReLU())
    x = torch.randn(13, D_IN, dtype=torch.double)
    post = (x @ t.W_enc + t.b_enc).clamp(min=0)
    torch.testing.assert_close(t(x), post @ t.W_dec + t.b_dec + x @ t.W_skip)


def test_the_activations_by_hand() -> None:
    pre = torch.tensor([[3.0, -1.0, 2.0, 0.5]])
    threshold = torch.tensor([3.5, 0.0, 1.0, 0.5])
    from tl_transcoders.transcoders.activations import activate

    assert activate(ReLU(), pre, None).tolist() == [[3.0, 0.0, 2.0, 0.5]]
    assert activate(JumpReLU(), pre, threshold).tolist() == [[0.0, 0.0, 2.0, 0.0]]
    assert activate(BatchTopK(1), pre, threshold).tolist() == [[0.0, 0.0, 2.0, 0.0]]
    assert activate(TopK(2), pre, None).tolist() == [[3.0, 0.0, 2.0, 0.0]]
    assert activate(TopK(4), pre, None).tolist() == [[3.0, 0.0, 2.0, 0.5]]


def test_sparse_features_and_back() -> None:
    dense = torch.randn(2, 3, 11).relu() * (torch.rand(2, 3, 11) < 0.3)
    dense[0, 1] = 0
    sparse = SparseFeatures.from_dense(dense)
    assert torch.equal(sparse.to_dense(), dense)
    assert len(sparse.values) == (dense != 0).sum()
    W = torch.randn(11, 7)
    torch.testing.assert_close(sparse.matmul(W), dense @ W)


def test_no_feature_active_at_all() -> None:
    sparse = SparseFeatures.from_dense(torch.zeros(2, 3, 11))
    assert torch.equal(sparse.matmul(torch.randn(11, 7)), torch.zeros(2, 3, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_kernels_against_index_add_and_products(dtype: torch.dtype) -> None:
    n, k = 13, 3
    indices = torch.stack([torch.randperm(FEATURES)[:k] for _ in range(n)]).flatten()
    offsets, rows = torch.arange(0, n * k, k), torch.arange(n * k) // k
    values = torch.randn(n * k).to(dtype)
    x, W = torch.randn(n, D_IN).to(dtype), torch.randn(FEATURES, D_IN).to(dtype)
    loose = {"atol": 0.1, "rtol": 0.1} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    summed = torch.zeros(FEATURES, D_IN, dtype=dtype).index_add_(
        0, indices, values[:, None] * x[rows]
    )
    torch.testing.assert_close(segment_sum(values, indices, rows, x, FEATURES), summed, **loose)
    dots = (x[rows] * W[indices]).sum(-1)
    torch.testing.assert_close(row_dots(x, indices, offsets, W), dots, **loose)


@pytest.mark.parametrize("rows", [13, 613])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_same_features_are_active_however_they_are_computed(
    dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two routes may not break ties differently: bf16 rounds many pre-activations alike, and twins are equal."""
    monkeypatch.setattr(kernels, "PART", 1 << 10)
    cfg = TranscoderConfig(layer=0, d_in=17, d_out=17, n_features=424, activation=TopK(19))
    t = randomise(Transcoder.init(cfg, seed=0)).to(dtype)
    with torch.no_grad():
        t.W_enc[:, 211:422], t.b_enc[211:422] = t.W_enc[:, :211], t.b_enc[:211]
    x = torch.randn(rows, 17).to(dtype)
    alone = t.features(x)
    assert isinstance(alone, SparseFeatures)
    _, beside = t.features_and_dense(x)
    stepwise = t.activate(t.pre_activations(x))
    with torch.enable_grad():
        under_autograd = t.activate(t.pre_activations(x.clone().requires_grad_()))
    assert (stepwise != 0).sum(-1).float().mean() > 9
    for other in (beside, stepwise, under_autograd):
        assert torch.equal(other, alone.to_dense())


def test_density_decides_the_route(monkeypatch: pytest.MonkeyPatch) -> None:
    t = build(ReLU())
    x = torch.randn(13, D_IN, dtype=torch.double)
    monkeypatch.setattr(encode_module, "GATHER_BELOW", 0.0)
    assert isinstance(t.features(x), Tensor)
    monkeypatch.setattr(encode_module, "GATHER_BELOW", 1.0)
    assert isinstance(t.features(x), SparseFeatures)


@every_activation
def test_cross_layer_by_hand(activation: Activation) -> None:
    cfg = CrossLayerConfig(
        layers=(1, 2, 5),
        d_in=D_IN,
        d_out=D_OUT,
        n_features=FEATURES,
        activation=activation,
        skip=True,
    )
    clt = randomise(CrossLayerTranscoder.init(cfg, seed=0))
    x = {layer: torch.randn(3, 13, D_IN) for layer in cfg.layers}
    y = clt(x)
    post = [clt.encode(layer, x[layer]) for layer in cfg.layers]
    assert clt.W_skip is not None
    for j, layer in enumerate(cfg.layers):
        expected = clt.b_dec[j] + x[layer] @ clt.W_skip[j]
        for i in range(j + 1):
            expected = expected + post[i] @ clt.W_dec[i][j - i]
        torch.testing.assert_close(y[layer], expected)
        features, dense = clt.features_and_dense(layer, x[layer])
        torch.testing.assert_close(dense, post[j])
        torch.testing.assert_close(
            features.to_dense() if isinstance(features, SparseFeatures) else features, post[j]
        )


def test_cross_layer_refuses() -> None:
    cfg = CrossLayerConfig(layers=(0, 2), d_in=D_IN, d_out=D_OUT, n_features=FEATURES)
    clt = CrossLayerTranscoder.init(cfg, seed=0)
    with pytest.raises(ConfigError, match=r"got layer 1; expected one of \(0, 2\)"):
        clt.encode(1, torch.zeros(3, D_IN))
    with pytest.raises(ConfigError, match=r"got features of layers \[2\]"):
        clt.decode(2, {2: torch.zeros(3, FEATURES)})
    with pytest.raises(ConfigError, match="ascending"):
        CrossLayerConfig(layers=(2, 0), d_in=D_IN, d_out=D_OUT, n_features=FEATURES)


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "W_skip"])
def test_a_transposed_weight_is_named(name: str) -> None:
    t = build(ReLU())
    weights = {key: p.detach() for key, p in t.named_parameters()}
    weights[name] = weights[name].T
    with pytest.raises((ShapeError, TypeCheckError), match=rf"{name}"):
        Transcoder(t.cfg, **weights)


def test_weights_of_two_dtypes_are_refused() -> None:
    t = build(ReLU())
    weights = {key: p.detach() for key, p in t.named_parameters()}
    with pytest.raises(ConfigError, match=r"got weights of torch\.float32 and torch\.float64"):
        Transcoder(t.cfg, **{**weights, "b_dec": weights["b_dec"].float()})


def test_a_transposed_square_skip_changes_the_output() -> None:
    """Shapes cannot see it, so the equation must be tested where d_in = d_out too."""
    cfg = TranscoderConfig(layer=0, d_in=5, d_out=5, n_features=11, skip=True)
    t = Transcoder.init(cfg, seed=0)
    assert t.W_skip is not None
    with torch.no_grad():
        t.W_skip.copy_(torch.randn(5, 5))
    x = torch.randn(13, 5)
    torch.testing.assert_close(t(x) - t.decode(t.encode(x), x * 0), x @ t.W_skip)


def test_a_cross_layer_transcoder_prints_one_line_for_each_layer() -> None:
    cfg = CrossLayerConfig(layers=(0, 2), d_in=5, d_out=5, n_features=11)
    lines = repr(CrossLayerTranscoder.init(cfg, seed=0)).splitlines()
    assert lines[1:] == [
        "  0: mlp_in→mlp_out_raw, 5→11→5, ReLU(), skip=False, decodes to 0, 2",
        "  2: mlp_in→mlp_out_raw, 5→11→5, ReLU(), skip=False, decodes to 2",
        ")",
    ]


def test_what_was_trained_on_a_processed_model_says_so() -> None:
    folded = CrossLayerConfig(layers=(0,), d_in=5, d_out=5, n_features=11, folded=True)
    assert "mlp_in→mlp_out_raw (processed), 5" in repr(CrossLayerTranscoder.init(folded, seed=0))
    one = TranscoderConfig(layer=0, d_in=5, d_out=5, n_features=11, folded=True)
    assert "mlp_in→mlp_out_raw (processed), 5" in repr(Transcoder.init(one, seed=0))
