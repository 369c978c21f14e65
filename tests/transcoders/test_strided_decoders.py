"""Published cross-layer decoders lie `[feature target d_out]`: one target's rows are far apart in memory."""

import torch

from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    SparseFeatures,
)


def sparse(features: int, *, grad: bool = False) -> SparseFeatures:
    indices = torch.tensor([2, 7, 7, 0, 5])
    values = torch.rand(5).requires_grad_(grad)
    return SparseFeatures(values, indices, torch.tensor([0, 2, 2]), (3, features))


def test_only_rows_in_use_are_gathered() -> None:
    weight = torch.randn(11, 2, 5)[:, 1]
    features = sparse(11, grad=True)
    y = features.matmul(weight)
    expected = features.to_dense() @ weight
    torch.testing.assert_close(y, expected)
    direction = torch.randn_like(y)
    for found, right in zip(
        torch.autograd.grad(y, features.values, direction),
        torch.autograd.grad(expected, features.values, direction),
        strict=True,
    ):
        torch.testing.assert_close(found, right)


def test_gradients_to_the_weight() -> None:
    weight = torch.randn(11, 2, 5, requires_grad=True)
    features = sparse(11)
    direction = torch.randn(3, 5)
    found = torch.autograd.grad(features.matmul(weight[:, 1]), weight, direction)[0]
    expected = torch.autograd.grad(features.to_dense() @ weight[:, 1], weight, direction)[0]
    torch.testing.assert_close(found, expected)


def test_a_cross_layer_transcoder_keeps_the_view_it_is_given() -> None:
    cfg = CrossLayerConfig(layers=(0, 1), d_in=3, d_out=5, n_features=11)
    made = CrossLayerTranscoder.init(cfg, seed=0).requires_grad_(False)
    published = [w.data.transpose(0, 1).contiguous() for w in made.W_dec]
    views = [w.transpose(0, 1) for w in published]
    rest = {"W_enc": made.W_enc, "b_enc": made.b_enc, "b_dec": made.b_dec}
    strided = CrossLayerTranscoder(
        cfg, W_dec=views, **{name: [w.data for w in ws] for name, ws in rest.items()}
    )
    for parameter, tensor in zip(strided.W_dec, published, strict=True):
        assert parameter.data_ptr() == tensor.data_ptr()
    x = {0: torch.randn(7, 3), 1: torch.randn(7, 3)}
    for layer, y in made(x).items():
        torch.testing.assert_close(strided(x)[layer], y)
