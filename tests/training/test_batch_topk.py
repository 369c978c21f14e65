import pytest
import torch
from torch.testing import assert_close

from tl_transcoders.training.batch_topk import encode_batch_topk, nth_largest

ROWS, D_IN, FEATURES, K = 7, 5, 61, 3


def dense(
    x: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition: the k · rows largest of the batch, and no negative ones."""
    pre = x @ W_enc + b_enc
    values, places = pre.flatten().relu().topk(K * len(x))
    post = torch.zeros_like(pre).flatten().scatter(0, places, values).view_as(pre)
    return post, values[values > 0].min()


@pytest.mark.parametrize("n", [1, 17, 400, 4999, 5000])
@pytest.mark.parametrize("ties", [False, True])
def test_nth_largest(n: int, ties: bool) -> None:
    values = torch.randn(50, 100)
    if ties:
        values = (3 * values).round()
    assert nth_largest(values, n) == values.flatten().sort(descending=True).values[n - 1]


@pytest.mark.parametrize("shift", [0.0, -6.0])
def test_it_is_the_definition_in_value_and_gradient(shift: float) -> None:
    x = torch.randn(ROWS, D_IN, requires_grad=True)
    W_enc = torch.randn(FEATURES, D_IN).T.requires_grad_()
    b_enc = (torch.randn(FEATURES) + shift).requires_grad_()
    inputs = (x, W_enc, b_enc)
    features, boundary = encode_batch_topk(*inputs, K)
    expected, expected_boundary = dense(*inputs)
    assert_close(features.to_dense(), expected)
    assert_close(boundary, expected_boundary)
    upstream = torch.randn_like(expected)
    grads = torch.autograd.grad(features.to_dense(), inputs, upstream)
    expected_grads = torch.autograd.grad(expected, inputs, upstream)
    for found, wanted in zip(grads, expected_grads, strict=True):
        assert_close(found, wanted)
    if shift:
        assert 0 < len(features.values) < K * ROWS
    else:
        assert len(features.values) == K * ROWS


def test_rows_share_the_budget() -> None:
    x = torch.cat([torch.zeros(ROWS - 1, D_IN), 100 * torch.ones(1, D_IN)])
    features, _ = encode_batch_topk(x, torch.randn(D_IN, FEATURES), -torch.ones(FEATURES), K)
    per_row = (features.to_dense() > 0).sum(1)
    assert per_row[:-1].sum() == 0
    assert per_row[-1] == K * ROWS


def test_nothing_active() -> None:
    x, W_enc = torch.randn(ROWS, D_IN), torch.randn(D_IN, FEATURES, requires_grad=True)
    features, boundary = encode_batch_topk(x, W_enc, torch.full((FEATURES,), -1e3), K)
    assert len(features.values) == 0
    assert boundary > 0
    features.matmul(torch.randn(FEATURES, 4)).sum().backward()
    assert_close(W_enc.grad, torch.zeros(D_IN, FEATURES))
