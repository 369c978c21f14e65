"""Path patching: what a sender does to a metric through chosen receivers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.checks import (
    check_distinct,
    check_order,
    check_pair,
    check_receiver,
    check_sender,
    check_spliced,
    check_whole_mlp,
    normal,
)
from tl_transcoders.circuits.metrics import AbstractMetric, Metric, as_metric
from tl_transcoders.circuits.nodes import Logits, Node, parse_node
from tl_transcoders.circuits.patching.edits import Edit
from tl_transcoders.circuits.patching.freeze import ErrorPolicy, Freeze, Preset, as_freeze
from tl_transcoders.circuits.patching.hop import Arrived, Hop, at_logits
from tl_transcoders.circuits.patching.send import Nodes, Senders, records_of, send
from tl_transcoders.circuits.read_metric import read_metric
from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import quiet
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run, as_run

Downstream = Literal["live", "direct"]
Prompts = Run | Int[Tensor, "batch pos"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PatchResult:
    """The effect of a patch on every prompt's metric, and the metric of the two runs; `source` is None without one."""

    effect: Float[Tensor, " batch"]
    base: Float[Tensor, " batch"]
    source: Float[Tensor, " batch"] | None

    @property
    def share(self) -> Float[Tensor, " batch"]:
        """effect / (source − base); infinite or NaN where the runs do not differ.

        **Raises:** ConfigError where there was no source run.
        """
        if self.source is None:
            raise ConfigError(
                "PatchResult.share",
                got="a patch without a source run",
                expected="two runs whose difference is the whole effect",
                do="Give source prompts, or read effect.",
            )
        return self.effect / (self.source - self.base)


def path_patch(
    spliced: Spliced,
    base: Prompts,
    source: Prompts | None = None,
    *,
    senders: Senders,
    receivers: Nodes,
    metric: Metric,
    via: Sequence[Nodes] = (),
    freeze: Preset | Freeze = "edge",
    downstream: Downstream = "live",
) -> PatchResult:
    """What senders do to a metric through the receivers alone.

        effect = m(base with receivers as if senders were ← source) − m(base)

    Senders take their values in the source run, or those of their records; each receiver answers to the residual stream that follows
    when everything between is frozen; then receivers keep their answers and all after them runs.

    **Arguments:**

    - `base`, `source`: tokens `[batch pos]` of equal length, or `Run`s of this splice. Without a source, every
      sender needs a record.
    - `senders`: heads, features, errors, whole MLPs, `embed`, as nodes or text (`"a4.h2"`, `"f3.7@5"`); or what is
      done to each, `{"a4.h2": tlt.Ablate(), "f3.7": tlt.Mean(tokens)}`.
    - `receivers`: `"a5.h1<q>"`, `"a5.kv0<k>"`, features, errors, MLPs, `"logits"`.
    - `metric`: a ready metric, or a function of logits `[batch pos vocab]` that returns `[batch]`.
    - `via`: groups of nodes in between, in order: each receives from the group before it and sends to the next.
    - `freeze`: `"edge"`, `"wang"`, `"linear"` or a `Freeze`.
    - `downstream`: `"live"`, or `"direct"` for what receivers write to the logits directly.

    **Raises:** ShapeError for prompts of unequal length; ConfigError for a node the model does not have, a
    receiver before its sender, or errors nothing keeps.

    Source: Wang et al. 2022, Interpretability in the Wild, appendix B; Goldowsky-Dill et al. 2023, Localizing
    Model Behavior with Path Patching.

    ```python
    with tlt.splice(model, transcoders) as spliced:
        result = tlt.path_patch(
            spliced, base, source, senders=["a0.h1"], receivers=["f2.7"], metric=metric
        )
    result.effect
    ```
    """
    check_spliced(spliced)
    base_run, source_run = runs_of(spliced, base, source)
    groups = normal_groups([list(senders), *via, receivers], base_run)
    records = dict(zip(groups[0], records_of(senders, source_run), strict=True))
    measured = as_metric(metric, base_run.shape[0])
    hop = hop_of(base_run, source_run, as_freeze(freeze))
    with torch.no_grad(), quiet(spliced.host):
        edits = send(records, base_run, source_run)
        patched = follow(hop, edits, groups[1:], measured, downstream)
        return PatchResult(
            effect=patched - unpatched(hop, edits, groups[1:], measured, downstream),
            base=read_metric(base_run, measured, base_run.resid_final, hop.rows),
            source=metric_of(source_run, measured),
        )


def runs_of(spliced: Spliced, base: Prompts, source: Prompts | None) -> tuple[Run, Run | None]:
    """The runs of a pair, or of base alone; raises ShapeError where their prompts differ in length."""
    given = source.tokens if isinstance(source, Run) else source
    check_pair(spliced, base.tokens if isinstance(base, Run) else base, given)
    return as_run(spliced, base), None if source is None else as_run(spliced, source)


def metric_of(run: Run | None, metric: AbstractMetric) -> Float[Tensor, " batch"] | None:
    """The metric of a run, where there is one."""
    return None if run is None else read_metric(run, metric, run.resid_final, run.all_rows)


def normal_groups(groups: Iterable[Nodes], run: Run) -> list[list[Node]]:
    """Groups of nodes as records with positions counted from the start, checked to follow one another."""
    found = [normal_group(group, run) for group in groups]
    for node in found[0]:
        check_sender(node)
    for sending, receiving in pairwise(found):
        for node in receiving:
            check_receiver(node)
        check_order(sending, receiving, run.model)
    return found


def normal_group(nodes: Nodes, run: Run) -> list[Node]:
    """Nodes as records with positions counted from the start; raises ConfigError for none, or one the run does not have."""
    if not nodes:
        raise ConfigError(
            "senders and receivers", got="no nodes", expected="at least one", do="Name the nodes."
        )
    group = [
        normal(parse_node(node) if isinstance(node, str) else node, run.spliced, run.shape[1])
        for node in nodes
    ]
    check_distinct(group)
    for node in group:
        check_whole_mlp(node, run.spliced)
    return group


def hop_of(base: Run, source: Run | None, freeze: Freeze) -> Hop:
    """The steps of a patch over whole prompts; raises ConfigError for errors that nothing keeps."""
    keeps = any(swap.policy != "drop" for swap in base.model.coders.values())
    if freeze.errors == "live" and not keeps:
        raise ConfigError(
            "Freeze.errors",
            got='"live" in a splice with error="drop"',
            expected="a splice that runs the original MLPs",
            do='Splice with error="keep".',
        )
    if freeze.errors == "source" and source is None:
        raise ConfigError(
            "Freeze.errors",
            got='"source" without a source run',
            expected="source prompts",
            do='Give source=, or choose "freeze", "live" or "zero".',
        )
    errors: ErrorPolicy = freeze.errors or ("freeze" if freeze.mlps or not keeps else "live")
    return Hop(run=base, rows=base.all_rows, freeze=freeze, errors=errors, source=source)


def follow(
    hop: Hop,
    edits: list[Edit],
    groups: Sequence[Sequence[Node]],
    metric: AbstractMetric,
    downstream: Downstream,
) -> Float[Tensor, " row"]:
    """The metric of every row when edits pass through groups of receivers, one after the other."""
    arrived: Arrived = {}
    for i, group in enumerate(groups):
        sent = edits if i == 0 else hop.as_senders(edits)
        arrived = hop.arrive(sent, group)
        edits = hop.answer(group, arrived)
    x = arrived.get(("logits_in", hop.run.model.n_layers))
    if x is not None:
        positions = torch.arange(hop.rows.first, hop.run.shape[1], device=x.device)
        x = at_logits(groups[-1], x, hop.rows.of(hop.run.resid_final), positions)
    return measure(hop, edits, x, metric, downstream)


def measure(
    hop: Hop,
    edits: list[Edit],
    x: Float[Tensor, "row pos d_model"] | None,
    metric: AbstractMetric,
    downstream: Downstream,
) -> Float[Tensor, " row"]:
    """The metric of every row when receivers have their answers; x is what the logits receive, if they do."""
    if edits:
        beyond = _beyond(hop, edits, downstream)
        base = hop.rows.of(hop.run.resid_final)
        x = beyond if x is None else x + (beyond - base)
    assert x is not None  # a group that is not empty leaves edits or reaches the logits
    gain = hop.freeze.gain and not edits
    return read_metric(hop.run, metric, x, hop.rows, gain=gain)


def unpatched(
    hop: Hop,
    edits: Sequence[Edit],
    groups: Sequence[Sequence[Node]],
    metric: AbstractMetric,
    downstream: Downstream,
) -> Float[Tensor, " row"]:
    """The metric when senders keep their base values: the base run's, unless errors are of another kind."""
    if hop.replays:
        return read_metric(hop.run, metric, hop.rows.of(hop.run.resid_final), hop.rows)
    kept = [replace(edit, value=edit.base) for edit in edits]
    return follow(hop, kept, groups, metric, downstream)


def _beyond(hop: Hop, edits: list[Edit], downstream: Downstream) -> Tensor:
    if downstream == "live":
        return hop.live(edits)
    if downstream == "direct":
        place = ("logits_in", hop.run.model.n_layers)
        frozen = replace(hop, freeze=Freeze())
        return frozen.arrive(hop.as_senders(edits), [Logits()])[place]
    raise ConfigError(
        "downstream",
        got=repr(downstream),
        expected='"live" or "direct"',
        do="Choose what happens after the receivers.",
    )
