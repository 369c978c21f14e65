import pytest
import torch
from torch.testing import assert_close

from tl_transcoders.training import losses
from tl_transcoders.transcoders import SparseFeatures

ROWS, D_IN, D_OUT, FEATURES = 7, 6, 5, 11


def test_fvu_is_the_unexplained_share_of_the_variance() -> None:
    y, y_hat = torch.randn(ROWS, D_OUT) + 3, torch.randn(ROWS, D_OUT)
    unexplained = variance = 0.0
    for r in range(ROWS):
        for d in range(D_OUT):
            unexplained += float(y[r, d] - y_hat[r, d]) ** 2
            variance += float(y[r, d] - y[:, d].mean()) ** 2
    total = losses.total_variance(y)
    assert_close(float(total), variance, rtol=1e-5, atol=0)
    assert_close(float(losses.fvu(y, y_hat, total)), unexplained / variance, rtol=1e-5, atol=0)


def test_fvu_of_the_mean_is_1_and_of_y_is_0() -> None:
    y = torch.randn(ROWS, D_OUT)
    total = losses.total_variance(y)
    assert_close(losses.fvu(y, y.mean(0).expand_as(y), total), torch.tensor(1.0))
    assert losses.fvu(y, y, total) == 0


@pytest.mark.parametrize("sparse", [False, True])
def test_l1_counts_what_features_write_in_units_of_y(sparse: bool) -> None:
    post, W_dec = torch.randn(ROWS, FEATURES).relu(), torch.randn(2, FEATURES, D_OUT)
    y = [torch.randn(ROWS, D_OUT), 100 * torch.randn(ROWS, D_OUT) + 5]
    expected = 0.0
    for r in range(ROWS):
        for f in range(FEATURES):
            squares = [
                float(W_dec[t, f].square().sum() / ((y[t] - y[t].mean(0)).square().sum() / ROWS))
                for t in range(2)
            ]
            expected += float(post[r, f]) * sum(squares) ** 0.5 / ROWS
    variances = torch.stack([losses.total_variance(target) for target in y])
    sizes = losses.written(W_dec, variances, rows=ROWS)
    given = SparseFeatures.from_dense(post) if sparse else post
    assert_close(float(losses.l1(given, sizes)), expected, rtol=1e-5, atol=0)


def test_what_is_written_has_a_gradient_where_nothing_is_written() -> None:
    W_dec = torch.zeros(2, FEATURES, D_OUT, requires_grad=True)
    losses.written(W_dec, torch.ones(2), rows=ROWS).sum().backward()
    assert_close(W_dec.grad, torch.zeros(2, FEATURES, D_OUT))


@pytest.mark.parametrize("dead_ids", [[], [4], [0, 3, 4, 8, 10]])
def test_auxk_lets_the_dead_explain_the_residual(dead_ids: list[int]) -> None:
    x, residual = torch.randn(ROWS, D_IN), torch.randn(ROWS, D_OUT)
    W_enc, b_enc = torch.randn(D_IN, FEATURES), torch.randn(FEATURES)
    W_dec = torch.randn(FEATURES, D_OUT)
    dead = torch.zeros(FEATURES, dtype=torch.bool)
    dead[dead_ids] = True
    k = D_IN // 2
    expected = 0.0
    for r in range(ROWS):
        pre = {f: float(x[r] @ W_enc[:, f] + b_enc[f]) for f in dead_ids}
        chosen = sorted(pre, key=lambda f: -pre[f])[:k]
        explained = sum((max(pre[f], 0) * W_dec[f] for f in chosen), torch.zeros(D_OUT))
        expected += float((residual[r] - explained).square().sum())
    expected *= min(len(dead_ids) / k, 1) / 17.0
    found = losses.auxk(x, residual, W_enc, b_enc, W_dec, dead=dead, variance=torch.tensor(17.0))
    assert_close(float(found), expected, rtol=1e-5, atol=0)


def test_auxk_moves_dead_features_only_and_not_the_residual() -> None:
    x, residual = torch.randn(ROWS, D_IN), torch.randn(ROWS, D_OUT, requires_grad=True)
    W_enc = torch.randn(D_IN, FEATURES, requires_grad=True)
    W_dec = torch.randn(FEATURES, D_OUT, requires_grad=True)
    dead = torch.arange(FEATURES) % 3 == 1
    loss = losses.auxk(
        x, residual, W_enc, torch.ones(FEATURES), W_dec, dead=dead, variance=torch.tensor(2.0)
    )
    loss.backward()
    assert residual.grad is None
    assert_close(W_enc.grad.abs().sum(0) > 0, dead)
    assert_close(W_dec.grad.abs().sum(1) > 0, dead)
