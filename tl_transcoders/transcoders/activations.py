"""Activations of a transcoder: small values that turn pre-activations into features.

The learned or calibrated `threshold` of JumpReLU and BatchTopK lives with the weights, not here.
"""

from dataclasses import asdict, dataclass
from typing import assert_never, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.errors import ConfigError
from tl_transcoders.transcoders.kernels import largest


@final
@dataclass(frozen=True, slots=True)
class ReLU:
    """post = max(pre, 0)."""


@final
@dataclass(frozen=True, slots=True)
class JumpReLU:
    """post = pre where pre > threshold (one per feature), else 0.

    Source: Rajamanoharan et al. 2024, Jumping Ahead.
    """


@final
@dataclass(frozen=True, slots=True)
class TopK:
    """post = max(pre, 0) on the k largest pre-activations of a token, else 0.

    Source: Gao et al. 2024, Scaling and evaluating sparse autoencoders.
    """

    k: int

    def __post_init__(self) -> None:
        _check_k(self.k)


@final
@dataclass(frozen=True, slots=True)
class BatchTopK:
    """post = pre where pre > threshold: the inference rule of a transcoder trained with k per token on average.

    In training the k·tokens largest pre-activations of the whole batch stay; `threshold` is the running
    mean of the smallest of them, so that a token's features never depend on its neighbours afterwards.

    Source: Bussmann et al. 2024, BatchTopK Sparse Autoencoders.
    """

    k: int

    def __post_init__(self) -> None:
        _check_k(self.k)


Activation = ReLU | JumpReLU | TopK | BatchTopK

_KINDS: dict[str, type[Activation]] = {
    "relu": ReLU,
    "jumprelu": JumpReLU,
    "topk": TopK,
    "batchtopk": BatchTopK,
}


def activate(
    activation: Activation,
    pre: Float[Tensor, "*batch feature"],
    threshold: Float[Tensor, " feature"] | None,
) -> Float[Tensor, "*batch feature"]:
    """Feature activations of dense pre-activations."""
    match activation:
        case ReLU():
            return pre.relu()
        case TopK(k):
            _, found = largest(pre.detach().reshape(-1, pre.shape[-1]), k)
            indices = found.view(*pre.shape[:-1], k)
            return torch.zeros_like(pre).scatter(-1, indices, pre.gather(-1, indices).relu())
        case JumpReLU() | BatchTopK():
            if threshold is None:
                raise ConfigError(
                    f"activation {activation_kind(activation)}",
                    got="no threshold",
                    expected="one threshold per feature",
                    do="Give the transcoder its threshold tensor.",
                )
            return torch.where(pre > threshold, pre, 0).relu()
        case _:
            assert_never(activation)


def needs_threshold(activation: Activation) -> bool:
    """Whether the activation compares with a stored threshold."""
    return isinstance(activation, JumpReLU | BatchTopK)


def activation_kind(activation: Activation) -> str:
    """The name of an activation in a config file."""
    return next(name for name, kind in _KINDS.items() if isinstance(activation, kind))


def activation_to_dict(activation: Activation) -> dict[str, str | int]:
    """`{"kind": "topk", "k": 32}`."""
    return {"kind": activation_kind(activation), **asdict(activation)}


def activation_from_dict(fields: dict[str, object]) -> Activation:
    """The inverse of `activation_to_dict`; unknown kinds and keys raise ConfigError."""
    rest = dict(fields)
    kind = rest.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError(
            "activation.kind",
            got=repr(kind),
            expected=f"one of {sorted(_KINDS)}",
            do="Correct the config.",
        )
    try:
        return _KINDS[kind](**rest)  # pyright: ignore[reportArgumentType]  # checked by the constructor
    except TypeError as error:
        raise ConfigError(
            f"activation {kind}",
            got=f"fields {sorted(rest)}",
            expected="k for topk and batchtopk, nothing for relu and jumprelu",
            do="Correct the config.",
        ) from error


def _check_k(k: object) -> None:
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ConfigError(
            "activation.k", got=repr(k), expected="an integer of at least 1", do="Choose another k."
        )
