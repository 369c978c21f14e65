"""One run with some nodes changed, beside the run without."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.checks import check_reached, check_spliced, tokens_of
from tl_transcoders.circuits.edits import Edit, Tokens, edited_positions
from tl_transcoders.circuits.interventions.checks import check_editable
from tl_transcoders.circuits.interventions.constrained import constrained_logits
from tl_transcoders.circuits.interventions.live import editing, live_sources
from tl_transcoders.circuits.interventions.sources import Read, read_sources
from tl_transcoders.circuits.interventions.steps import (
    Editable,
    Step,
    common_strengths,
    one_strength,
)
from tl_transcoders.circuits.nodes import Node
from tl_transcoders.circuits.values import node_value, values_of
from tl_transcoders.errors import ShapeError
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import capture

Metric = Callable[[Float[Tensor, "batch pos vocab"]], Float[Tensor, " batch"]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Intervened:
    """Logits with and without an intervention."""

    logits: Float[Tensor, "*strength batch pos vocab"]
    base: Float[Tensor, "batch pos vocab"]

    def effect(self, metric: Metric) -> Float[Tensor, "*strength batch"]:
        """metric(logits) − metric(base), for every prompt (and strength).

        **Raises:** ShapeError where the metric does not return one number for each prompt.
        """
        before = _measured(metric, self.base)
        if self.logits.ndim == self.base.ndim:
            return _measured(metric, self.logits) - before
        return torch.stack([_measured(metric, logits) - before for logits in self.logits])


@torch.no_grad()
def intervene(
    spliced: Spliced,
    tokens: Tokens,
    edits: Mapping[Node, Edit],
    *,
    constrained: bool = False,
) -> Intervened:
    """Run a spliced model with features, heads, errors or MLPs changed.

        logits = model(tokens with node ← edit(node))

    **Arguments:**

    - `tokens`: a text, or prompts of one length `[batch pos]`.
    - `edits`: what becomes of each node; a node without a position is edited at all of them (or at the slice its
      edit names), a negative position counts from the end.
    - `constrained`: False lets everything after an edited node respond, with the user's hooks in place. True
      leaves attention, all other features and errors and all MLPs as they are in the base run, so that only
      what an edited node itself writes changes; hooks sleep.

    Edits that hold a vector of strengths run once for each: logits and effects get a leading axis.

    **Raises:** ConfigError, ShapeError or SpliceError where an edit does not fit the model or the prompts;
    HookNeverFiredError where one changed nothing.

    ```python
    done = tlt.intervene(spliced, prompt, {tlt.Feature(5, 1207): tlt.Scale(0.0)})
    done.effect(lambda logits: logits[:, -1, 42])
    ```
    """
    check_spliced(spliced)
    ids = tokens_of(spliced, tokens, "intervene")
    run = _constrained if constrained else _live
    return run(spliced, ids, edits)


def _live(
    spliced: Spliced, ids: Int[Tensor, "batch pos"], edits: Mapping[Node, Edit]
) -> Intervened:
    steps = _steps(spliced, ids, edits, lambda nodes, source: live_sources(spliced, nodes, source))
    n, base = common_strengths(steps), spliced.host.logits(ids)
    if n is None:
        return Intervened(logits=_edited(spliced, ids, steps), base=base)
    if spliced.holds_prompts:
        each = [_edited(spliced, ids, [one_strength(s, i) for s in steps]) for i in range(n)]
        return Intervened(logits=torch.stack(each), base=base)
    logits = _edited(spliced, ids.repeat(n, 1), steps)
    return Intervened(logits=logits.unflatten(0, (n, len(ids))), base=base)


def _edited(
    spliced: Spliced, ids: Int[Tensor, "row pos"], steps: list[Step]
) -> Float[Tensor, "row pos vocab"]:
    with editing(spliced, steps) as reached:
        logits = spliced.host.logits(ids)
    reached.check(steps)
    return logits


def _constrained(
    spliced: Spliced, ids: Int[Tensor, "batch pos"], edits: Mapping[Node, Edit]
) -> Intervened:
    def read(nodes: list[Editable], source: Int[Tensor, "batch pos"]) -> dict[Editable, Tensor]:
        values = values_of(capture(spliced, source))
        return {node: node_value(node, values) for node in nodes}

    steps = _steps(spliced, ids, edits, read)
    n, base = common_strengths(steps), capture(spliced, ids)
    logits = constrained_logits(base, steps, n or 1)
    shaped = logits if n is None else logits.unflatten(0, (n, len(ids)))
    return Intervened(logits=shaped, base=base.logits)


def _steps(
    spliced: Spliced, ids: Int[Tensor, "batch pos"], edits: Mapping[Node, Edit], read: Read
) -> list[Step]:
    checked = {check_editable(spliced, node, edit): edit for node, edit in edits.items()}
    steps = [
        Step(node, edit, edited_positions(node, edit, ids.shape[1]))
        for node, edit in checked.items()
    ]
    for step in steps:
        check_reached(step.node, step.positions, spliced.excluded(ids))
    known = read_sources(spliced, checked, read, ids)
    return [replace(step, source=known.get(step.node)) for step in steps]


def _measured(metric: Metric, logits: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, " batch"]:
    value = metric(logits)
    if isinstance(value, Tensor) and value.shape == logits.shape[:1]:
        return value
    raise ShapeError(
        "metric",
        got=f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__,
        expected=f"one number for each of the {len(logits)} prompts",
        do="Return a tensor [batch], for instance logits[:, -1, answer].",
    )
