"""Attribution of a metric to nodes and edges."""

from collections.abc import Collection, Sequence
from typing import Final, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.attribution.changes import Changes, changes
from tl_transcoders.circuits.attribution.collect import edge_effects, node_effects, per_prompt
from tl_transcoders.circuits.attribution.edges import Edges
from tl_transcoders.circuits.attribution.methods import (
    AttributionPatching,
    IntegratedGradients,
    Method,
    rules_of,
)
from tl_transcoders.circuits.attribution.point import Differentiator, Point
from tl_transcoders.circuits.attribution.qk_fix import Softmax
from tl_transcoders.circuits.attribution.result import Attribution
from tl_transcoders.circuits.attribution.score import Family, Scores, scores
from tl_transcoders.circuits.attribution.steps import Step, inputs, journeys, steps
from tl_transcoders.circuits.attribution.wanted import Wanted
from tl_transcoders.circuits.checks import (
    check_pair,
    check_spliced,
)
from tl_transcoders.circuits.metrics import Metric, as_metric
from tl_transcoders.circuits.nodes import (
    Node,
)
from tl_transcoders.circuits.read_metric import read_metric
from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import quiet
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run, as_run

Prompts = Run | Int[Tensor, "batch pos"]
ATP: Final = AttributionPatching()


def attribute(
    spliced: Spliced,
    base: Prompts,
    source: Prompts | None = None,
    *,
    metric: Metric,
    method: Method = ATP,
    level: Literal["node", "edge"] = "node",
    errors: Literal["freeze", "live"] = "freeze",
    by_position: bool = False,
    kinds: Collection[type[Node]] | None = None,
    receivers: Sequence[Node | str] | None = None,
    max_edges: int | None = 100_000,
) -> Attribution:
    """What every node, and every edge, does to a metric, to first order: one backward pass for all of them.

        effect(n)      = (n_source − n_base) · ∂m/∂n
        effect(u → v)  = (w_u,source − w_u,base) · ∂m/∂(what v reads)         Σ_v effect(u → v) = effect(u)

    An edge is direct: through the residual stream, skip connections and norms, past no other node. Sign as
    everywhere: m(base with node ← source) − m(base).

    **Arguments:**

    - `base`, `source`: tokens `[batch pos]` of equal length, or `Run`s of this splice; without a source, every
      node goes to zero.
    - `method`: `AttributionPatching`, `IntegratedGradients`, `RelP` or `FrozenLinear`: where gradients are taken.
    - `level`: `"node"`, or `"edge"` for edges as well.
    - `errors`: `"freeze"`, so that gradients pass through features alone, or `"live"`, so that they are those of
      the original model (an error answers like a node of its own).
    - `by_position`: whether every position is a node of its own.
    - `kinds`: node records to be told about, such as `(tlt.Head, tlt.Feature)`; all by default. Edges lead between
      these, and to the logits.
    - `receivers`: of edges, only those that lead here; an `a5.kv0<k>` stands for the copies of its heads.
    - `max_edges`: how many edges to keep, the largest; None for all.

    **Raises:** ShapeError for prompts of unequal length; ConfigError for a node the model does not have, for live
    errors the splice does not keep, for a metric without gradients, for GradDrop of edges.

    Source: Nanda 2023, Attribution Patching; Syed et al. 2023; Marks et al. 2024, Sparse Feature Circuits.

    ```python
    with tlt.splice(model, transcoders) as spliced:
        found = tlt.attribute(spliced, base, source, metric=metric, level="edge")
    found.nodes.top(5), found.edges.top(5)
    ```
    """
    check_spliced(spliced)
    _check_choices(level, errors, method)
    base_run, source_run = _runs(spliced, base, source)
    if torch.is_inference_mode_enabled():
        raise ConfigError(
            "attribute",
            got="torch.inference_mode()",
            expected="a place where gradients can be taken; torch.no_grad() is one",
            do="Call it outside inference mode.",
        )
    if max_edges is not None and (not isinstance(max_edges, int) or max_edges < 1):
        raise ConfigError(
            "attribute, max_edges",
            got=repr(max_edges),
            expected="a whole number from 1, or None for all edges",
            do="Say how many edges to keep.",
        )
    if level == "node" and receivers is not None:
        raise ConfigError(
            "attribute, receivers",
            got='receivers with level="node"',
            expected="receivers of edges",
            do='Ask for level="edge".',
        )
    wanted = Wanted.of(base_run, kinds, receivers, by_position=by_position)
    way = Differentiator(
        run=base_run,
        metric=as_metric(metric, base_run.shape[0]),
        rules=rules_of(method),
        errors=_errors(errors, base_run),
    )
    with torch.no_grad(), quiet(spliced.host):
        change = changes(base_run, source_run)
        return _attribute(way, change, source_run, method, level, wanted, max_edges)


def _attribute(
    way: Differentiator,
    change: Changes,
    goal: Run | None,
    method: Method,
    level: str,
    wanted: Wanted,
    max_edges: int | None,
) -> Attribution:
    edges = Edges(
        run=way.run,
        changes=change,
        book=wanted.book,
        live_errors=way.errors == "live",
        qk_fix=isinstance(method, AttributionPatching) and method.qk_fix,
        senders=frozenset(f for f in _families(change) if f[0] in wanted.kinds),
        receivers=wanted.kinds,
    )
    ledgers = wanted.ledgers() if level == "edge" else []
    totals: dict[Family, Tensor] = {}
    for step in steps(method, way, change):
        for family, score in _node_scores(method, way, change, step).items():
            weighted = score * step.weight
            totals[family] = totals[family] + weighted if family in totals else weighted
        for _, rows, ledger in ledgers:
            edges.enter(ledger, step, rows)
    base = _finite(_metric(way, way.run))
    source = way.measure(inputs(way, change).move) if goal is None else _metric(way, goal)
    shown = _dropped(way, change, qk_fix=edges.qk_fix) if _drops(method) else totals
    shown = {family: score for family, score in shown.items() if family[0] in wanted.kinds}
    return Attribution(
        nodes=node_effects(shown, change, wanted.book, by_position=wanted.by_position),
        edges=edge_effects(
            [(pos, ledger) for pos, _, ledger in ledgers], wanted.book, way.run.shape[0], max_edges
        ),
        base=base,
        source=source,
        gap=_gap(method, way, change, totals, base, source),
    )


def _finite(metric: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    if not metric.isfinite().all():
        raise ConfigError(
            "metric",
            got=str(metric.tolist()),
            expected="a finite number for every prompt",
            do="Look at what it makes of spliced.model's logits on the base prompts.",
        )
    return metric


def _metric(way: Differentiator, run: Run) -> Float[Tensor, " batch"]:
    return read_metric(run, way.metric, run.resid_final, run.all_rows)


def _node_scores(method: Method, way: Differentiator, change: Changes, step: Step) -> Scores:
    """The scores a step counts for; queries and keys through the softmax where the method says so."""
    qk_fix = isinstance(method, AttributionPatching) and method.qk_fix
    found = _scores(way, change, step.point, qk_fix=qk_fix)
    if step.families is None:
        return found
    return {family: score for family, score in found.items() if family in step.families}


def _scores(way: Differentiator, change: Changes, point: Point, *, qk_fix: bool) -> Scores:
    found = dict(scores(change, point))
    if qk_fix:
        rows = torch.arange(way.run.tokens.numel(), device=way.run.tokens.device)
        for (part, layer), delta in change.readers.items():
            if part != "v":
                softmax = Softmax(run=way.run, point=point, layer=layer, rows=rows)
                effect = softmax.effects(part, delta.flatten(0, 1)[None])[0]
                found[part, layer] = effect.unflatten(0, way.run.shape)
    return found


def _dropped(way: Differentiator, change: Changes, *, qk_fix: bool) -> Scores:
    """GradDrop: the mean size of a score when one block after another passes on no gradient."""
    totals: dict[Family, Tensor] = {}
    for point in way.dropping(patterns=qk_fix):
        for family, score in _scores(way, change, point, qk_fix=qk_fix).items():
            totals[family] = totals.get(family, torch.zeros_like(score)) + score.abs()
    others = max(1, way.run.model.n_layers - 1)
    return {family: total / others for family, total in totals.items()}


def _gap(
    method: Method,
    way: Differentiator,
    change: Changes,
    totals: Scores,
    base: Tensor,
    source: Tensor,
) -> Float[Tensor, " batch"]:
    if not isinstance(method, IntegratedGradients) or method.over == "inputs":
        return per_prompt(totals, change, inputs(way, change).families) - (source - base)
    gaps = torch.stack(
        [
            per_prompt(totals, change, journey.families) - (way.measure(journey.move) - base)
            for journey in journeys(method.over, way, change)
        ]
    )
    return gaps.gather(0, gaps.abs().argmax(0, keepdim=True))[0]


def _families(change: Changes) -> list[Family]:
    """Every family that writes."""
    return [
        ("embed", 0),
        *(("head", layer) for layer in change.heads),
        *(("mlp", layer) for layer in change.mlps),
        *(("feature", layer) for layer in change.features),
        *(("error", layer) for layer in change.errors),
    ]


def _runs(spliced: Spliced, base: Prompts, source: Prompts | None) -> tuple[Run, Run | None]:
    first = base.tokens if isinstance(base, Run) else base
    check_pair(spliced, first, source.tokens if isinstance(source, Run) else source)
    return as_run(spliced, base), None if source is None else as_run(spliced, source)


def _errors(errors: Literal["freeze", "live"], run: Run) -> Literal["freeze", "live"]:
    if errors == "live" and all(coder.policy == "drop" for coder in run.model.coders.values()):
        raise ConfigError(
            "attribute, errors",
            got='"live" in a splice with error="drop"',
            expected="a splice that runs the original MLPs",
            do='Splice with error="keep".',
        )
    return errors


def _drops(method: Method) -> bool:
    return isinstance(method, AttributionPatching) and method.grad_drop


def _check_choices(level: str, errors: str, method: Method) -> None:
    for name, got, expected in (
        ("level", level, ("node", "edge")),
        ("errors", errors, ("freeze", "live")),
    ):
        if got not in expected:
            raise ConfigError(
                f"attribute, {name}",
                got=repr(got),
                expected=" or ".join(map(repr, expected)),
                do="Choose one.",
            )
    if not isinstance(method, Method):
        raise ConfigError(
            "attribute, method",
            got=repr(method),
            expected="AttributionPatching(), IntegratedGradients(10), RelP() or FrozenLinear()",
            do="Choose one.",
        )
    if level == "edge" and _drops(method):
        raise ConfigError(
            "attribute, method",
            got='grad_drop=True with level="edge"',
            expected="GradDrop of nodes: it measures a node's effect over several ways at once",
            do="Leave out grad_drop, or level.",
        )
