import pytest
import torch
from torch.testing import assert_close

from tl_transcoders.training.straight_through import count_active, jump_relu

ROWS, FEATURES, BANDWIDTH = 19, 5, 0.6


@pytest.fixture
def pre() -> torch.Tensor:
    return torch.randn(ROWS, FEATURES).requires_grad_()


@pytest.fixture
def threshold() -> torch.Tensor:
    return torch.linspace(0.1, 0.9, FEATURES).requires_grad_()


def kernel(pre: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """K((pre − θ)/ε), the rectangle of height 1 and width 1."""
    return (((pre - threshold) / BANDWIDTH).abs() < 0.5).float().detach()


def test_values_are_those_of_the_step(pre: torch.Tensor, threshold: torch.Tensor) -> None:
    expected = pre * (pre > threshold)
    assert_close(jump_relu(pre, threshold, BANDWIDTH), expected)
    assert count_active(pre, threshold, BANDWIDTH) == (expected != 0).sum()


def test_gradient_of_jump_relu_is_the_papers(pre: torch.Tensor, threshold: torch.Tensor) -> None:
    upstream = torch.randn(ROWS, FEATURES)
    jump_relu(pre, threshold, BANDWIDTH).backward(upstream)
    active = (pre > threshold).float()
    assert_close(pre.grad, upstream * active)
    # Rajamanoharan et al. 2024, equation 11
    per_entry = -(threshold / BANDWIDTH) * kernel(pre, threshold)
    assert_close(threshold.grad, (upstream * per_entry).sum(0).detach())
    assert (threshold.grad != 0).all()


def test_gradient_of_l0_is_the_papers(pre: torch.Tensor, threshold: torch.Tensor) -> None:
    (3 * count_active(pre, threshold, BANDWIDTH)).backward()
    assert pre.grad is None
    # Rajamanoharan et al. 2024, equation 12
    assert_close(threshold.grad, 3 * (-(1 / BANDWIDTH) * kernel(pre, threshold)).sum(0))


def test_the_estimate_is_the_slope_of_the_expected_count() -> None:
    """Over many samples it approaches the derivative of E[Σ H(pre − θ)] by a finite difference."""
    pre = torch.randn(400_000, 1)
    threshold = torch.tensor([0.5], requires_grad=True)
    count_active(pre, threshold, 0.2).backward()
    up, down = (pre > 0.6).sum(), (pre > 0.4).sum()
    assert_close(threshold.grad, ((up - down) / 0.2).view(1), rtol=1e-3, atol=0)
