"""Laws of attribution on every architecture, host and kind of transcoder."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.cases import HOSTS, WHOLE_TABLE, Host, Kind, case_id, tokens
from tl_transcoders.circuits.attribution import (
    Attribution,
    AttributionPatching,
    FrozenLinear,
    IntegratedGradients,
    RelP,
    attribute,
)
from tl_transcoders.circuits.attribution.changes import changes
from tl_transcoders.circuits.attribution.collect import per_prompt
from tl_transcoders.circuits.attribution.methods import Rules
from tl_transcoders.circuits.attribution.point import Differentiator
from tl_transcoders.circuits.attribution.score import scores
from tl_transcoders.circuits.attribution.steps import inputs
from tl_transcoders.circuits.metrics import as_metric
from tl_transcoders.circuits.nodes import Head, Logits, Mlp, Node, at
from tl_transcoders.splice import splice
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.slow, pytest.mark.cases]

RAW = [host for host in HOSTS if not host.processed]
every_raw_host = pytest.mark.parametrize("host", RAW, ids=case_id)
SKIP = Kind("topk-skip", TopK(5), skip=True)
KINDS = [
    SKIP,
    Kind("clt", TopK(5), cross_layer=True),
    Kind("after-post-norm", TopK(5), skip=True, write="mlp_out"),
    Kind("two-layers", TopK(5), layers=(0, 2)),
    Kind("sae-resid_post", TopK(5), read="resid_post", write="resid_post"),
    Kind("sae-z", TopK(5), read="z", write="z"),
]
CASES = [
    (host, kind)
    for i, host in enumerate(RAW)
    for j, kind in enumerate(KINDS)
    if WHOLE_TABLE or (i + j) % 2 == 0
]
METHODS = [AttributionPatching(), IntegratedGradients(2), RelP(), FrozenLinear()]
BASE, SOURCE = tokens(seed=1), tokens(seed=2)
Errors = Literal["freeze", "live"]


def last(logits: Tensor) -> Tensor:
    return logits[:, -1, 5] - logits[:, -1, 9]


def is_writer(node: Node) -> bool:
    return not (isinstance(node, Head) and node.reader)


def sent(found: Attribution) -> dict[Node, float]:
    """Σ_v effect(u → v) of every sender."""
    totals: dict[Node, float] = {}
    for (sender, _), effect in found.edges.top(len(found.edges)):
        totals[sender] = totals.get(sender, 0.0) + effect
    return totals


def assert_sums(found: Attribution) -> None:
    totals, nodes = sent(found), found.nodes.where(is_writer)
    effects = nodes.effects.mean(1)
    scale = float(effects.abs().max())
    for node, effect in zip(nodes.nodes, effects.tolist(), strict=True):
        assert totals.get(node, 0.0) == pytest.approx(effect, abs=1e-3 * scale), node
    assert found.edges.kept == pytest.approx(1.0)


@pytest.mark.parametrize(("host", "kind"), CASES, ids=case_id)
@pytest.mark.parametrize("errors", ["freeze", "live"])
def test_edges_of_a_sender_sum_to_its_effect(host: Host, kind: Kind, errors: Errors) -> None:
    model = host.build()
    with splice(model, kind.build(model), error="keep") as spliced:
        runs = capture(spliced, BASE), capture(spliced, SOURCE)
        for method in METHODS:
            found = attribute(
                spliced,
                *runs,
                metric=last,
                method=method,
                errors=errors,
                level="edge",
                max_edges=None,
            )
            assert_sums(found)


@every_raw_host
@pytest.mark.parametrize("errors", ["freeze", "live"])
@pytest.mark.parametrize("alpha", [0.1, 0.7])
def test_inputs_account_for_the_slope_between_base_and_source(
    host: Host, errors: Errors, alpha: float
) -> None:
    # GPT-2's random logits are so flat that a smaller step would measure rounding.
    model, h = host.build(), 5e-3 if host.architecture == "gpt2" else 2e-4
    # A TopK feature enters with a jump, which no gradient sees: ReLU features are continuous.
    with splice(model, Kind("relu").build(model), error="keep") as spliced, torch.no_grad():
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        metric = as_metric(last, len(BASE))
        way = Differentiator(run=base, metric=metric, rules=Rules(), errors=errors)
        change = changes(base, source)
        journey = inputs(way, change)
        point = way.at(journey.part(alpha))
        found = per_prompt(scores(change, point), change, journey.families)
        after, before = (way.measure(journey.part(alpha + d)) for d in (h, -h))
    slope = (after - before) / (2 * h)
    torch.testing.assert_close(found, slope, rtol=0.01, atol=0.01 * float(slope.abs().max()))


@every_raw_host
def test_positions_sum_to_nodes_and_receivers_are_a_part(host: Host) -> None:
    model = host.build()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        runs: Any = capture(spliced, BASE), capture(spliced, SOURCE)
        whole = attribute(spliced, *runs, metric=last, level="edge", max_edges=None)
        split = attribute(
            spliced, *runs, metric=last, level="edge", max_edges=None, by_position=True
        )
        totals: dict[Any, float] = {}
        for (u, v), effect in split.edges.top(len(split.edges)):
            assert u.pos == v.pos
            edge = at(u, None), at(v, None)
            totals[edge] = totals.get(edge, 0.0) + effect
        close = 1e-5 * float(whole.edges.effects.abs().max())
        for edge, effect in whole.edges.top(len(whole.edges)):
            assert totals[edge] == pytest.approx(effect, abs=close)
        heads = attribute(
            spliced, *runs, metric=last, level="edge", kinds=(Head, Mlp, Logits), receivers=["logits"],
            max_edges=None,
        )  # fmt: skip
        expected = {
            edge: effect
            for edge, effect in whole.edges.top(len(whole.edges))
            if isinstance(edge[0], Head) and edge[1] == Logits()
        }
        assert dict(heads.edges.top(len(heads.edges))) == pytest.approx(expected, abs=close)
