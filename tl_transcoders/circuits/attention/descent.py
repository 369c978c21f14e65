"""The gradient of targets on its way down a frozen run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attention.passage import Passage
from tl_transcoders.circuits.attention.placed import Placed


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The gradients of n targets in a layer, `[n pos d_model]`.

    `pre` is that of the stream before it, which is `around` and what comes by the heads: the pull of `z`.
    """

    layer: int
    post: Float[Tensor, "n pos d_model"]
    mid: Float[Tensor, "n pos d_model"]
    z: Float[Tensor, "n pos head d_head"]
    around: Float[Tensor, "n pos d_model"]
    pre: Float[Tensor, "n pos d_model"]


def descend(passage: Passage, read: Placed, before: int) -> Iterator[Level]:
    """From the layer below `before` down to the first, the gradients of what nodes read."""
    frame = passage.frame
    like = frame.run.embed[0].to(frame.dtype)
    g = _joined(like.new_zeros(read.n, *like.shape), read.at((before, "pre"), like))
    for layer in reversed(range(before)):
        heads, beside = passage.heads[layer], passage.parallel(layer)
        passed = passage.skip_back(layer, g)
        mid = _joined(g, read.at((layer, "mid"), like))
        if not beside:
            mid = _joined(mid, passed)
        around = _joined(mid, passed) if beside else mid
        z = heads.read(mid)
        pre = _joined(around + heads.pull(z), read.at((layer, "pre"), like))
        yield Level(layer=layer, post=g, mid=mid, z=z, around=around, pre=pre)
        g = pre


def _joined(g: Tensor, more: Tensor | None) -> Tensor:
    return g if more is None else torch.add(g, more)
