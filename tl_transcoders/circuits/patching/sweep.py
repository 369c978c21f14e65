"""The effects of whole families of senders through the same receivers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.checks import check_receiver, check_spliced, depth
from tl_transcoders.circuits.edits import Edit, Mean, Patch
from tl_transcoders.circuits.metrics import AbstractMetric, Metric, as_metric
from tl_transcoders.circuits.nodes import Head, Logits, Node
from tl_transcoders.circuits.patching.families import Batch, Family, batches, places_of
from tl_transcoders.circuits.patching.freeze import Freeze, Preset, as_freeze
from tl_transcoders.circuits.patching.hop import Hop
from tl_transcoders.circuits.patching.path_patch import (
    Downstream,
    Prompts,
    follow,
    hop_of,
    metric_of,
    normal_group,
    runs_of,
    unpatched,
)
from tl_transcoders.circuits.patching.send import Nodes, donated, from_source
from tl_transcoders.circuits.read_metric import read_metric
from tl_transcoders.circuits.values import Values
from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import quiet
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run

BUDGET: Final = 64_000_000
"""How many numbers the rows of one pass may hold in the residual stream and in one layer's features together."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """The effect of every sender of some families, one at a time, on every prompt's metric.

    `effects[node, batch]` are those of `nodes`, in order; a sender that does not change has 0. `source` is None
    without a source run.
    """

    nodes: tuple[Node, ...]
    effects: Float[Tensor, "node batch"]
    base: Float[Tensor, " batch"]
    source: Float[Tensor, " batch"] | None

    @property
    def heads(self) -> Float[Tensor, "layer head batch"]:
        """Effects of heads by layer, from 0 to the last layer swept; 0 for heads that were not."""
        found = {
            (node.layer, node.head): i
            for i, node in enumerate(self.nodes)
            if isinstance(node, Head)
        }
        n_layers = 1 + max((layer for layer, _ in found), default=-1)
        n_heads = 1 + max((head for _, head in found), default=-1)
        grid = self.effects.new_zeros(n_layers, n_heads, self.effects.shape[1])
        for (layer, head), i in found.items():
            grid[layer, head] = self.effects[i]
        return grid

    def top(self, n: int = 10) -> list[tuple[Node, float]]:
        """The n senders of largest mean effect by size, with it."""
        means = self.effects.mean(1)
        order = means.abs().topk(min(n, len(means))).indices.tolist()
        return [(self.nodes[i], float(means[i])) for i in order]


def sweep(
    spliced: Spliced,
    base: Prompts,
    source: Prompts | None = None,
    *,
    senders: Sequence[Family],
    value: Edit | None = None,
    receivers: Nodes,
    metric: Metric,
    freeze: Preset | Freeze = "edge",
    downstream: Downstream = "live",
) -> SweepResult:
    """What each sender of some families does to a metric through the receivers: `path_patch` for all of them.

    Rows for senders that change are stacked, and only positions that receivers reach are computed.

    **Arguments:** as `path_patch`, with

    - `senders`: families such as `[AllHeads(), ActiveFeatures(layers=[3, 4])]`.
    - `value`: what is done to each sender in turn, `tlt.Ablate()` for instance; by default they take their values
      from the source run.

    **Raises:** as `path_patch`.

    ```python
    with tlt.splice(model, transcoders) as spliced:
        found = sweep(
            spliced, base, source, senders=[AllHeads()], receivers=["logits"], metric=metric
        )
    found.top(5)
    ```
    """
    check_spliced(spliced)
    base_run, source_run = runs_of(spliced, base, source)
    group = normal_group(receivers, base_run)
    for node in group:
        check_receiver(node)
    measured = as_metric(metric, base_run.shape[0])
    given = from_source(source_run) if value is None else value
    _check_value(given)
    hop = hop_of(base_run, source_run, as_freeze(freeze))
    with torch.no_grad(), quiet(spliced.host):
        base_value = unpatched(hop, measured, downstream)
        positions = _positions(group, base_run, measured)
        nodes: list[Node] = []
        effects: list[Tensor] = []
        before = max(depth(node, base_run.model) for node in group)
        values = _values(given, base_run, source_run, senders)
        for family in senders:
            for batch in batches(family, base_run, given, values, positions, before):
                nodes += batch.nodes
                effects.append(_effects(hop, batch, group, measured, downstream, base_value))
        return SweepResult(
            nodes=tuple(nodes),
            effects=torch.cat(effects) if effects else base_value.new_zeros(0, len(base_value)),
            base=read_metric(base_run, measured, base_run.resid_final, hop.rows),
            source=metric_of(source_run, measured),
        )


def _check_value(value: Edit) -> None:
    if getattr(value, "at", None) is None:
        return
    raise ConfigError(
        "sweep",
        got=f"a value with at={value.at}",
        expected="one for all positions",
        do="Use path_patch for single positions.",
    )


def _values(
    value: Edit, base: Run, source: Run | None, families: Sequence[Family]
) -> Values | None:
    if not isinstance(value, Patch | Mean):
        return None
    places = [place for family in families for place in places_of(family, base)]
    return donated(value, base, source, places)


def _effects(
    hop: Hop,
    batch: Batch,
    receivers: Sequence[Node],
    metric: AbstractMetric,
    downstream: Downstream,
    base: Tensor,
) -> Float[Tensor, "node batch"]:
    effects = base.new_zeros(len(batch.nodes), len(base))
    if not len(batch.example):
        return effects
    sent = depth(batch.nodes[0], hop.run.model)
    behind = [node for node in receivers if depth(node, hop.run.model) > sent]
    size = _rows_at_once(hop.run, batch)
    for start in range(0, len(batch.example), size):
        rows, edit, node = batch.part(slice(start, start + size))
        patched = follow(replace(hop, rows=rows), [edit], [behind], metric, downstream)
        effects[node, rows.example] = patched - base[rows.example]
    return effects


def _rows_at_once(run: Run, batch: Batch) -> int:
    positions = run.shape[1] - int(batch.edit.positions.min())
    widest = max((swap.n_features for swap in run.model.coders.values()), default=0)
    width = run.embed.shape[2] * 8 + widest
    return max(1, BUDGET // (positions * width))


def _positions(receivers: Sequence[Node], run: Run, metric: AbstractMetric) -> Tensor:
    """Positions at which a change of senders can reach a receiver."""
    wanted = {_read_at(node, run, metric) for node in receivers}
    if None in wanted:
        return torch.arange(run.shape[1], device=run.tokens.device)
    return torch.tensor(sorted(p for p in wanted if p is not None), device=run.tokens.device)


def _read_at(node: Node, run: Run, metric: AbstractMetric) -> int | None:
    if isinstance(node, Logits) and metric.pos is not None:
        return metric.pos % run.shape[1]
    return node.pos
