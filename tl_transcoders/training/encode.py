"""The forward pass up to the features, as training needs it."""

from dataclasses import dataclass
from typing import assert_never, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_transcoders.training.batch_topk import encode_batch_topk
from tl_transcoders.training.straight_through import count_active, jump_relu
from tl_transcoders.transcoders import (
    Activation,
    BatchTopK,
    JumpReLU,
    ReLU,
    SparseFeatures,
    TopK,
)
from tl_transcoders.transcoders.encode import encode_topk, gather_if_sparse


@final
@dataclass(frozen=True, slots=True)
class Encoded:
    """Features of a batch.

    `active` is how many entries are not zero; for JumpReLU it has a gradient to the threshold. `boundary` is
    BatchTopK's smallest activation that stayed.
    """

    features: Float[Tensor, "row feature"] | SparseFeatures
    active: Float[Tensor, ""]
    boundary: Float[Tensor, ""] | None = None


def encode(
    activation: Activation,
    x: Float[Tensor, "row d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
    threshold: Float[Tensor, " feature"] | None,
    *,
    window: float,
) -> Encoded:
    """Features with the gradients of training: sparse for the TopK kinds, straight-through for JumpReLU."""
    match activation:
        case TopK(k):
            features, _ = encode_topk(x, W_enc, b_enc, k)
            return Encoded(features, _count(features.values))
        case BatchTopK(k):
            features, boundary = encode_batch_topk(x, W_enc, b_enc, k)
            return Encoded(features, _count(features.values), boundary)
        case ReLU():
            post = torch.addmm(b_enc, x, W_enc).relu()
            return Encoded(gather_if_sparse(post), _count(post))
        case JumpReLU():
            assert threshold is not None  # the transcoder's constructor has checked
            pre = torch.addmm(b_enc, x, W_enc)
            post = jump_relu(pre, threshold, window)
            return Encoded(gather_if_sparse(post), count_active(pre, threshold, window))
        case _:
            assert_never(activation)


def fired(features: Float[Tensor, "row feature"] | SparseFeatures) -> Bool[Tensor, " feature"]:
    """Which features were active anywhere in the batch."""
    if isinstance(features, SparseFeatures):
        active = features.indices[features.values > 0]
        return torch.bincount(active, minlength=features.shape[-1]) > 0
    return (features > 0).any(0)


def _count(values: Tensor) -> Tensor:
    return torch.count_nonzero(values.detach()).to(values.dtype)
