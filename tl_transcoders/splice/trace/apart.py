"""A run of prompts as a run of its tokens, for whatever does not look at other positions."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from tl_transcoders.splice.trace.run import Run
from tl_transcoders.transcoders import SparseFeatures


def apart(run: Run) -> Run:
    """The run with every token as a prompt of its own: token p of prompt b is prompt `b * length + p`, of length 1.

    Only passes in which attention is frozen may continue it.
    """
    batch, length = run.shape
    values = {
        place: _apart(value, batch * length)
        for place, value in run.values.items()
        if place[0] != "pattern"  # no value of a position: [batch head query key]
    }
    return replace(
        run,
        wirings=(),
        embed=_apart(run.embed, batch * length),
        tokens=_apart(run.tokens, batch * length),
        excluded=None if run.excluded is None else _apart(run.excluded, batch * length),
        values=values,
        logits=_apart(run.logits, batch * length),
    )


def _apart(value: Any, n: int) -> Any:
    if isinstance(value, SparseFeatures):
        return replace(value, shape=(n, 1, value.shape[-1]))
    assert isinstance(value, Tensor)
    return value.reshape(n, 1, *value.shape[2:])
