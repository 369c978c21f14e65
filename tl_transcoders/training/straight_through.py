"""JumpReLU and its L0 with straight-through gradients to the threshold."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def jump_relu(
    pre: Float[Tensor, "row feature"], threshold: Float[Tensor, " feature"], bandwidth: float
) -> Float[Tensor, "row feature"]:
    """post = pre · H(pre − θ), whose gradient to the threshold is an estimate over a window of width ε.

        ∂post/∂pre ≔ H(pre − θ)        ∂post/∂θ ≔ −(θ/ε) · K((pre − θ)/ε)        K(u) = 1 where |u| < 1/2

    Source: Rajamanoharan et al. 2024, Jumping Ahead, equations 11 and 13.
    """
    return _JumpReLU.apply(pre, threshold, bandwidth)


def count_active(
    pre: Float[Tensor, "row feature"], threshold: Float[Tensor, " feature"], bandwidth: float
) -> Float[Tensor, ""]:
    """Σ H(pre − θ), whose gradient to the threshold is an estimate over a window of width ε.

        ∂H/∂pre ≔ 0        ∂H/∂θ ≔ −(1/ε) · K((pre − θ)/ε)

    Source: Rajamanoharan et al. 2024, Jumping Ahead, equation 12.
    """
    return _CountActive.apply(pre, threshold, bandwidth)


class _JumpReLU(Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.bandwidth = bandwidth
        post = torch.where(pre > threshold, pre, 0).relu_()
        ctx.save_for_backward(pre, threshold, post)
        return post

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold, post = ctx.saved_tensors
        window = _window(pre, threshold, ctx.bandwidth)
        to_threshold = -(threshold / ctx.bandwidth) * torch.where(window, grad, 0).sum(0)
        return torch.where(post > 0, grad, 0), to_threshold, None


class _CountActive(Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.bandwidth = bandwidth
        ctx.save_for_backward(pre, threshold)
        return (pre > threshold).sum().to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        in_window = _window(pre, threshold, ctx.bandwidth).sum(0).to(pre.dtype)
        return None, -(grad / ctx.bandwidth) * in_window, None


def _window(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return (pre - threshold).abs() < bandwidth / 2
