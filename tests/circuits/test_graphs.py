"""Attribution graphs: against autograd, against removal, against the host, and their own laws."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import BOS, HOSTS, Host, Kind, case_id, only_in_the_whole_table, tokens
from tests.circuits.truth import ANSWER, WRONG, Truth
from tests.circuits.truths import TRUTHS
from tl_transcoders.circuits.graphs import Difference, Graph, Token, attribution_graph
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Mlp, Node
from tl_transcoders.circuits.reference_graphs import autograd_graph
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.slow, only_in_the_whole_table]
RELU_KIND = Kind("relu")
SKIP = Kind("topk-skip", TopK(5), skip=True)
CLT = Kind("clt", TopK(5), cross_layer=True)
MORE = [
    Kind("two-layers", TopK(5), skip=True, layers=(0, 2)),
    Kind("after-post-norm", TopK(5), skip=True, write="mlp_out"),
    Kind("normalized", TopK(5), read="ln2_normalized"),
    Kind("clt-skip", skip=True, cross_layer=True, layers=(0, 2), write="mlp_out"),
]
PROMPT = tokens(1)
LAST = PROMPT.shape[1] - 1
every_host = pytest.mark.parametrize("host", HOSTS, ids=case_id)
every_kind = pytest.mark.parametrize("kind", [RELU_KIND, SKIP, CLT], ids=case_id)
every_truth = pytest.mark.parametrize(("truth", "host"), TRUTHS, ids=case_id)


def spliced_with(host: Host, kind: Kind, **options: Any) -> Spliced:
    model = host.build()
    return splice(model, kind.build(model), **({"error": "keep"} | options))


def row(graph: Graph, target: Any) -> dict[Node, float]:
    """What every source but biases does to a target."""
    here = graph.target == graph.number(target)
    found = zip(graph.source[here].tolist(), graph.effect[here].tolist(), strict=True)
    return {
        node: effect
        for source, effect in found
        if isinstance(node := graph.nodes[source], Embed | Feature | Error | Mlp)
    }


def sums(graph: Graph) -> Tensor:
    """Σ of every row and what was left out."""
    return graph.left_out.index_add(0, graph.target.long(), graph.effect)


def some_targets(graph: Graph) -> list[Any]:
    features = [node for node in graph.nodes if isinstance(node, Feature)]
    last_layer = [node for node in features if node.layer == graph.n_layers - 1]
    return [*features[:: len(features) // 4], *last_layer[-2:]]


def largest(rows: list[dict[Node, float]]) -> float:
    return max(abs(effect) for row in rows for effect in row.values())


def assert_same(fast: dict[Node, float], slow: dict[Node, float], size: float) -> None:
    for node in fast.keys() | slow.keys():
        assert abs(fast.get(node, 0) - slow.get(node, 0)) <= 1e-5 * size, node


@every_host
@every_kind
def test_the_autograd_twin_agrees(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind) as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3, (4, 5)])
        targets = some_targets(graph)
        slow = autograd_graph(spliced, PROMPT, [*targets, (3, None), (4, 5)])
    targets += [Token(3, LAST), Difference(4, 5, LAST)]
    for target, expected in zip(targets, slow, strict=True):
        assert_same(row(graph, target), expected, largest(slow))


@pytest.mark.parametrize("kind", MORE, ids=case_id)
@pytest.mark.parametrize("host", HOSTS[::3], ids=case_id)
def test_it_agrees_on_other_kinds_and_with_positions_left_out(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind, exclude=[BOS]) as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3])
        targets = some_targets(graph)
        slow = autograd_graph(spliced, PROMPT, [*targets, (3, None)])
    assert not any(isinstance(node, Feature) and node.pos == 0 for node in graph.nodes)
    for target, expected in zip([*targets, Token(3, LAST)], slow, strict=True):
        assert_same(row(graph, target), expected, largest(slow))


ONE_LEFT_OUT = [
    Kind("middle-left", TopK(5), skip=True, layers=(0, 2)),
    Kind("one-alone", layers=(1,)),
]


@pytest.mark.parametrize("kind", ONE_LEFT_OUT, ids=case_id)
@every_host
def test_it_agrees_where_other_mlps_are_linear(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind) as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3, (4, 5)], unspliced="linear")
        constant = attribution_graph(spliced, PROMPT, targets=[3])
        targets = some_targets(graph)
        asked = [*targets, (3, None), (4, 5)]
        slow = autograd_graph(spliced, PROMPT, asked, linear=True)
    targets += [Token(3, LAST), Difference(4, 5, LAST)]
    for target, expected in zip(targets, slow, strict=True):
        assert_same(row(graph, target), expected, largest(slow))
    assert graph.gap < 1e-5
    with pytest.raises(AssertionError):
        assert_same(row(constant, Token(3, LAST)), slow[-2], largest(slow))


def test_a_changed_weight_is_noticed_by_the_twin() -> None:
    model = HOSTS[0].build()
    transcoders = SKIP.build(model)
    with splice(model, transcoders, error="keep") as spliced:
        (slow,) = autograd_graph(spliced, PROMPT, [(3, None)])
        with torch.no_grad():
            transcoders[1].W_dec[7:].mul_(1.01)
        graph = attribution_graph(spliced, PROMPT, targets=[3])
    with pytest.raises(AssertionError):
        assert_same(row(graph, Token(3, LAST)), slow, largest([slow]))


@every_host
@every_kind
def test_rows_sum_to_what_the_host_computes(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind) as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3, (4, 5)])
        with torch.no_grad():
            logits, cache = spliced.model.run_with_cache(PROMPT)
    assert graph.gap < 1e-5
    total, size = sums(graph), sums(replace(graph, effect=graph.effect.abs()))
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Feature):
            pre = cache[f"blocks.{node.layer}.mlp.hook_pre"][0, node.pos, node.index]
            assert abs(total[i] - pre) <= 1e-4 * size[i]
    last = logits[0, -1]
    for node, expected in (
        (Token(3, LAST), last[3] - last.mean()),
        (Difference(4, 5, LAST), last[4] - last[5]),
    ):
        i = graph.number(node)
        assert abs(total[i] - expected) <= 1e-4 * size[i]


@every_host
@every_kind
def test_removing_nodes_does_what_the_edges_say(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind) as spliced:
        graph = attribution_graph(spliced, PROMPT)
        assert graph.validate(12).gap < 1e-4


@pytest.mark.parametrize("host", HOSTS[::3], ids=case_id)
def test_and_so_it_does_where_positions_are_left_out(host: Host) -> None:
    with spliced_with(host, SKIP, exclude=[BOS]) as spliced:
        assert attribution_graph(spliced, PROMPT).validate(12).gap < 1e-4


def test_a_wrong_edge_is_noticed_by_validation() -> None:
    with spliced_with(HOSTS[0], SKIP) as spliced:
        graph = attribution_graph(spliced, PROMPT)
        graph.effect[graph.effect.abs().argmax()] *= 1.01
        assert graph.validate(len(graph.nodes)).gap > 1e-3


@every_truth
def test_rows_sum_on_models_whose_circuits_are_known(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        # In some source runs every feature is off, which a graph refuses; the base run has one that is on.
        off = capture(spliced, truth.source_tokens).values
        silent = not any(
            len(value.values.nonzero()) for (spot, _), value in off.items() if spot == "features"
        )
        tokens = truth.base_tokens if silent else truth.source_tokens
        graph = attribution_graph(spliced, tokens, targets=[(ANSWER, WRONG)])
        assert graph.gap < 1e-10
        assert graph.validate(len(graph.nodes)).gap < 1e-9
        node = graph.number(graph.outcomes[0])
        assert sums(graph)[node] == pytest.approx(float(truth.metric(graph.run.logits)), abs=1e-9)


@pytest.mark.parametrize(
    ("truth", "host"), [c for c in TRUTHS if c[0].name == "A-linear-chain"], ids=case_id
)
def test_the_linear_chain_is_found(truth: Truth, host: str) -> None:
    """x is 3 in the source run: f0.0 = 3 writes 2 · 3, the head moves 3 times it, f1.0 reads it, writes 5 times it."""
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        graph = attribution_graph(spliced, truth.source_tokens, targets=[(ANSWER, WRONG)])
    outcome = Difference(ANSWER, WRONG, 3)
    change = truth.effects["f1.0"] / (3 - 1)
    into_logits = row(graph, outcome)
    assert sum(e for n, e in into_logits.items() if n == Feature(1, 0, 3)) == pytest.approx(
        3 * change
    )
    assert not any(isinstance(n, Embed) and abs(e) > 1e-9 for n, e in into_logits.items())
    into_feature = row(graph, Feature(1, 0, 3))
    assert {n for n, e in into_feature.items() if abs(e) > 1e-9} == {Feature(0, 0, 1)}
