"""What targets read of the residual stream."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.splice.trace.swap import Swap


@final
@dataclass(frozen=True, slots=True)
class Reader:
    """Targets of one layer: pre-activation = vector · x + bias, x the residual stream at the target's position.

    `value` is the pre-activation in the run, computed from what the run read and not from these vectors.
    """

    vector: Float[Tensor, "n d_model"]
    bias: Float[Tensor, " n"]
    value: Float[Tensor, " n"]


def read(frame: Frame, targets: NodeTable) -> Reader:
    """What targets that share a layer read."""
    layer = int(targets.layer[0])
    if layer == frame.n_layers:
        return _outcomes(frame, targets)
    swap = frame.swap(layer)
    assert swap is not None
    return _features(frame, swap, targets)


def _features(frame: Frame, swap: Swap, targets: NodeTable) -> Reader:
    block, device = frame.block(swap.layer), frame.run.embed.device
    index, pos = targets.index.to(device), targets.pos.to(device)
    x = frame.value("mlp_in", swap.layer)
    rows = swap.encoder_rows(index).to(frame.dtype)
    b_enc = swap.b_enc[index].to(frame.dtype)
    inner = rows @ block.ln2.bias.to(frame.dtype) if swap.coder.cfg.read == "mlp_in" else 0
    return Reader(
        vector=swap.pull(block, x[pos], rows),
        bias=b_enc + inner,
        value=(rows * swap.read(block, x[None])[0][pos]).sum(-1) + b_enc,
    )


def _outcomes(frame: Frame, targets: NodeTable) -> Reader:
    norm = frame.anatomy.ln_final
    pos = targets.pos.to(frame.run.embed.device)
    x = frame.run.resid_final[0].to(frame.dtype)[pos]
    weights, b_U = directions(frame, targets)
    return Reader(
        vector=norm.pull(x, weights),
        bias=weights @ norm.bias.to(frame.dtype) + b_U,
        value=(weights * norm(x)).sum(-1) + b_U,
    )


def directions(
    frame: Frame, targets: NodeTable
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " n"]]:
    """The unembedding of tokens, less the mean of all or another's, and the same of its bias."""
    W_U, b_U = frame.anatomy.W_U, frame.anatomy.b_U
    good, bad = targets.rows[:, 3].to(W_U.device), targets.rows[:, 4].to(W_U.device)
    less_other = targets.is_a("difference").to(W_U.device)
    mean, mean_b = W_U.mean(1).to(frame.dtype), b_U.mean().to(frame.dtype)
    minus = torch.where(less_other[:, None], W_U[:, bad].T.to(frame.dtype), mean)
    minus_b = torch.where(less_other, b_U[bad].to(frame.dtype), mean_b)
    return W_U[:, good].T.to(frame.dtype) - minus, b_U[good].to(frame.dtype) - minus_b
