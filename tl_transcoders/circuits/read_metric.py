"""A metric read off the last residual stream: only the logits it needs are computed."""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.metrics import AbstractMetric
from tl_transcoders.splice.trace.forward import Rows
from tl_transcoders.splice.trace.run import Run


def read_metric(
    run: Run,
    metric: AbstractMetric,
    x: Float[Tensor, "row pos d_model"],
    rows: Rows,
    *,
    gain: bool = False,
) -> Float[Tensor, " row"]:
    """The metric of every row, from its last residual stream at the positions from `rows.first` on.

    With `gain`, the final norm keeps the base run's σ.
    """
    anatomy, length = run.model.anatomy, run.shape[1]
    scale = anatomy.ln_final.scale(rows.of(run.resid_final)) if gain else None
    if metric.pos is None:
        logits = torch.cat([rows.before(run.logits), anatomy.logits(x, scale)], dim=1)
        return metric.of_rows(logits, rows.example)
    pos = metric.pos % length
    unchanged = pos < rows.first
    x = run.resid_final[rows.example, pos] if unchanged else x[:, pos - rows.first]
    scale = None if unchanged or scale is None else scale[:, pos - rows.first]
    tokens = metric.needs(anatomy.W_U.shape[1])
    if tokens is None:
        return metric.of_rows(anatomy.logits(x, scale), rows.example)
    W_U, b_U = anatomy.W_U[:, tokens], anatomy.b_U[tokens]
    return metric.of_rows(anatomy.capped(anatomy.ln_final(x, scale) @ W_U + b_U), rows.example)
