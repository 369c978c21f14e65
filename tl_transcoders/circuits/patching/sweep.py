"""The effects of whole families of senders through the same receivers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.checks import check_receiver, check_spliced, depth
from tl_transcoders.circuits.edits import Edit, Mean, Patch
from tl_transcoders.circuits.metrics import AbstractMetric, Metric, as_metric
from tl_transcoders.circuits.nodes import Feature, Head, Logits, Node
from tl_transcoders.circuits.patching.answers import Answers, answers, differing, in_rows, together
from tl_transcoders.circuits.patching.families import Batch, Changes, Family, batches, places_of
from tl_transcoders.circuits.patching.freeze import Freeze, Preset, as_freeze
from tl_transcoders.circuits.patching.hop import Hop
from tl_transcoders.circuits.patching.path_patch import (
    Downstream,
    Prompts,
    follow,
    hop_of,
    measure,
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
from tl_transcoders.splice.trace.apart import apart
from tl_transcoders.splice.trace.forward import Rows
from tl_transcoders.splice.trace.run import Run

BUDGET: Final = 64_000_000
"""How many numbers a pass may hold in the residual stream and in one layer's features, and how many may wait for it."""


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

    def features(self, layer: int) -> Float[Tensor, "feature batch"]:
        """Effects of the features of a layer by their index, up to the last one swept; 0 for those that were not."""
        found = {
            node.index: i
            for i, node in enumerate(self.nodes)
            if isinstance(node, Feature) and node.layer == layer
        }
        column = self.effects.new_zeros(1 + max(found, default=-1), self.effects.shape[1])
        column[list(found)] = self.effects[list(found.values())]
        return column

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

    Between senders and receivers no token sees another, so receivers answer token by token, only where a sender
    changes. Answers of all senders are then stacked and continued together, every prompt from the first token that
    changes in it.

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
    _check_senders(senders)
    base_run, source_run = runs_of(spliced, base, source)
    group = normal_group(receivers, base_run)
    for node in group:
        check_receiver(node)
    measured = as_metric(metric, base_run.shape[0])
    given = from_source(source_run) if value is None else value
    _check_value(given)
    hop = hop_of(base_run, source_run, as_freeze(freeze))
    with torch.no_grad(), quiet(spliced.host):
        values = _values(given, base_run, source_run, senders)
        found = Sweep(hop, tuple(group), measured, downstream)
        for family in senders:
            found.add(family, given, values)
        return SweepResult(
            nodes=tuple(found.nodes),
            effects=found.effects(),
            base=read_metric(base_run, measured, base_run.resid_final, hop.rows),
            source=metric_of(source_run, measured),
        )


def _check_senders(senders: object) -> None:
    families = senders if isinstance(senders, list | tuple) else ()
    if not families or not all(isinstance(family, Family) for family in families):
        raise ConfigError(
            "sweep, senders",
            got=repr(senders),
            expected="a list of families, AllHeads() or ActiveFeatures()",
            do="Write senders=[AllHeads(), ActiveFeatures(layers=[3, 4])]; path_patch takes single nodes.",
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


@final
class Sweep:
    """A sweep as it proceeds: the senders so far, answers that wait to be continued, and effects."""

    def __init__(
        self,
        hop: Hop,
        receivers: Sequence[Node],
        metric: AbstractMetric,
        downstream: Downstream,
    ) -> None:
        self.hop, self.receivers = hop, receivers
        self.metric = metric
        self.downstream: Downstream = downstream
        self.base = read_metric(hop.run, metric, hop.run.resid_final, hop.rows)
        self.nodes: list[Node] = []
        source = None if hop.source is None else apart(hop.source)
        self._alone = replace(hop, run=apart(hop.run), source=source)
        self._waiting: dict[tuple[Node, ...], list[Answers]] = defaultdict(list)
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, family: Family, value: Edit, theirs: Values | None) -> None:
        """Let the receivers answer to every sender of a family; `theirs` as for `batches`."""
        run, model = self.hop.run, self.hop.run.model
        before = max(depth(node, model) for node in self.receivers)
        for batch in batches(family, run, value, theirs, self._positions(), before):
            first = len(self.nodes)
            self.nodes += batch.nodes
            if not len(batch.example):
                continue
            sent = depth(batch.nodes[0], model)
            behind = tuple(node for node in self.receivers if depth(node, model) > sent)
            if self.hop.replays:
                self._answer(batch.changes(), behind, first)
            else:
                self._from_the_start(batch, behind, first)

    def effects(self) -> Float[Tensor, "node batch"]:
        """What every sender did, after continuing all that waits."""
        for behind in self._waiting:
            self._continue(behind)
        effects = self.base.new_zeros(len(self.nodes), len(self.base))
        for node, example, effect in self._found:
            effects[node, example] = effect
        return effects

    def _answer(self, changes: Changes, behind: tuple[Node, ...], first: int) -> None:
        waiting, n, most = self._waiting[behind], len(changes.node), self._tokens_at_once
        for start in range(0, n, most):
            tokens = slice(start, start + most)
            found = answers(self._alone, changes, behind, tokens, self.hop.run.shape[1])
            waiting.append(differing(replace(found, node=found.node + first), self.hop.run))
        if sum(found.numbers for found in waiting) > BUDGET:
            self._continue(behind)

    def _continue(self, behind: tuple[Node, ...]) -> None:
        run, waiting = self.hop.run, self._waiting[behind]
        if not waiting:
            return
        for rows, node, found, row in in_rows(together(waiting), run.shape, self._tokens_at_once):
            edits, x = found.edits(run, rows, row), found.final(run, rows, row)
            hop = replace(self.hop, rows=rows)
            patched = measure(hop, edits, x, self.metric, self.downstream)
            self._found.append((node, rows.example, patched - self.base[rows.example]))
        waiting.clear()

    def _from_the_start(self, batch: Batch, behind: Sequence[Node], first: int) -> None:
        """Errors of another kind change every token: no part of a base run can be continued."""
        most = max(1, self._tokens_at_once // self.hop.run.shape[1])
        for start in range(0, len(batch.example), most):
            some = slice(start, start + most)
            hop, edits = replace(self.hop, rows=Rows(batch.example[some])), [batch.rows(some)]
            patched = follow(hop, edits, [behind], self.metric, self.downstream)
            base = unpatched(hop, edits, [behind], self.metric, self.downstream)
            self._found.append((batch.node[some] + first, batch.example[some], patched - base))

    @property
    def _tokens_at_once(self) -> int:
        run = self.hop.run
        widest = max((swap.n_features for swap in run.model.coders.values()), default=0)
        return max(1, BUDGET // (run.embed.shape[2] * 8 + widest))

    def _positions(self) -> Int[Tensor, " pos"]:
        """Positions at which a change of senders can reach a receiver."""
        run = self.hop.run
        wanted = {_read_at(node, run, self.metric) for node in self.receivers}
        if None in wanted:
            return torch.arange(run.shape[1], device=run.tokens.device)
        return torch.tensor(sorted(p for p in wanted if p is not None), device=run.tokens.device)


def _read_at(node: Node, run: Run, metric: AbstractMetric) -> int | None:
    if isinstance(node, Logits) and node.pos is None and metric.pos is not None:
        return metric.pos % run.shape[1]
    return node.pos
