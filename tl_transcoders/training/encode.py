"""The forward pass up to the features, as training needs it."""

from dataclasses import dataclass
from typing import assert_never, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_transcoders.training import sparse_code
from tl_transcoders.training.batch_topk import encode_batch_topk
from tl_transcoders.training.straight_through import count_active, jump_relu
from tl_transcoders.transcoders import (
    Activation,
    BatchTopK,
    JumpReLU,
    ReLU,
    SparseFeatures,
    TopK,
    Transcoder,
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


def reconstruct(
    transcoder: Transcoder, x: Float[Tensor, "row d_in"], *, window: float
) -> tuple[Encoded, Float[Tensor, "row d_out"]]:
    """Features and output of a transcoder; for the TopK kinds only the output has gradients."""
    t, activation = transcoder, transcoder.cfg.activation
    if not isinstance(activation, TopK | BatchTopK):
        encoded = encode(activation, x, t.W_enc, t.b_enc, t.threshold, window=window)
        return encoded, t.decode(encoded.features, x)
    selected = sparse_code.select(activation, x, t.W_enc, t.b_enc)
    y_hat = sparse_code.reconstruct(selected, x, t.W_enc, t.b_enc, t.W_dec, t.b_dec)
    if t.W_skip is not None:
        y_hat = torch.addmm(y_hat, x, t.W_skip)
    active = _count(selected.features.values)
    return Encoded(selected.features, active, selected.boundary), y_hat


def fired(features: Float[Tensor, "row feature"] | SparseFeatures) -> Bool[Tensor, " feature"]:
    """Which features were active anywhere in the batch."""
    if isinstance(features, SparseFeatures):
        zeros = features.values.new_zeros(features.shape[-1])
        return zeros.index_add_(0, features.indices, features.values.detach()) > 0
    return (features > 0).any(0)


def _count(values: Tensor) -> Tensor:
    return torch.count_nonzero(values.detach()).to(values.dtype)
