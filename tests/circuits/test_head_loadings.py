"""Edges split over heads: against removal with heads held, against edges, and where the circuit is known."""

from typing import Any

import pytest
import torch

from tests.cases import BOS, HOSTS, Host, Kind, case_id, only_in_the_whole_table
from tests.circuits.attention_cases import (
    LAST,
    PROMPT,
    SKIP,
    TOKEN,
    edges_into,
    every_host,
    features,
    run_of,
    spliced_with,
    telling,
)
from tests.circuits.truth import ANSWER, WRONG, Truth
from tests.circuits.truths import TRUTHS
from tl_transcoders.circuits.attention import LoadingTable, head_loadings, loading_table
from tl_transcoders.circuits.graphs import Bias, Difference, Graph, Token, attribution_graph
from tl_transcoders.circuits.nodes import Embed, Feature, Head, KeyValue
from tl_transcoders.circuits.reference_attention import removed_loadings
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import splice

pytestmark = only_in_the_whole_table
every_truth = pytest.mark.parametrize(("truth", "host"), TRUTHS, ids=case_id)


def assert_sums(table: LoadingTable, edges: dict[Any, float], tolerance: float) -> None:
    expected = torch.tensor([edges[source] for source in table.sources], dtype=table.total.dtype)
    size = tolerance * max(map(abs, edges.values()), default=0.0)
    torch.testing.assert_close(table.total, expected, atol=size, rtol=0)
    split = table.per_head.sum(2) + table.bypass
    torch.testing.assert_close(split, expected[:, None].expand_as(split), atol=size, rtol=0)


@every_host
def test_heads_and_what_goes_past_them_sum_to_the_edge(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind, exclude=[BOS]) as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3])
        for target in (TOKEN, features(graph)[-1], features(graph)[len(features(graph)) // 2]):
            table = loading_table(graph, target, memory=1 << 14)
            assert_sums(table, edges_into(graph, target), 1e-5)
        assert loading_table(graph, TOKEN).per_head.any()


@pytest.mark.slow
@every_host
def test_a_head_that_notices_nothing_takes_its_loading_away(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind) as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3])
        for target in (TOKEN, features(graph)[-1]):
            table = loading_table(graph, target)
            for source in table.sources[:: len(table.sources) // 3]:
                for layer in range(graph.n_layers):
                    slow = removed_loadings(run_of(graph), source, target, layer)
                    fast = table.of(source, layer).per_head
                    size = float(table.total.abs().max())
                    torch.testing.assert_close(fast, slow, atol=2e-4 * size, rtol=0)


def test_a_changed_weight_is_noticed() -> None:
    model = HOSTS[0].fresh()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3])
        source = Embed(2)
        table = loading_table(graph, TOKEN)
        with torch.no_grad():
            run_of(graph).model.anatomy.blocks[1].attention.W_V.mul_(1.01)
        slow = removed_loadings(run_of(graph), source, TOKEN, 1)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(table.of(source, 1).per_head, slow, atol=0, rtol=2e-3)


@every_truth
def test_loadings_sum_and_agree_in_double_precision(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        graph = attribution_graph(spliced, telling(truth), targets=[(ANSWER, WRONG)])
        (target,) = graph.outcomes
        table = loading_table(graph, target)
        assert_sums(table, edges_into(graph, target), 1e-10)
        for source in table.sources[:3]:
            slow = removed_loadings(run_of(graph), source, target, 0)
            fast = table.of(source, 0).per_head
            torch.testing.assert_close(fast, slow, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("truth", "host"), [c for c in TRUTHS if c[0].name == "A-linear-chain"], ids=case_id
)
def test_the_head_of_the_linear_chain_carries_all_of_its_edge(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        graph = attribution_graph(spliced, truth.source_tokens, targets=[(ANSWER, WRONG)])
        found = head_loadings(graph, Feature(0, 0, 1), target=Feature(1, 0, 3), layer=1)
    assert found.total
    assert found.per_head[0] == pytest.approx(found.total, abs=1e-12)
    assert found.bypass == pytest.approx(0, abs=1e-12)
    assert found.per_head[1:].abs().max() < 1e-12


@pytest.fixture(scope="module")
def graph() -> Graph:
    with spliced_with(HOSTS[0]) as spliced:
        return attribution_graph(spliced, PROMPT, targets=[3, (4, 5)])


def test_a_feature_is_not_before_itself(graph: Graph) -> None:
    with pytest.raises(ConfigError, match=r"a layer between f0.* and token3@6, 1 to 2"):
        head_loadings(graph, features(graph)[0], target=TOKEN, layer=0)
    with pytest.raises(ConfigError, match="1 to 2"):
        head_loadings(graph, features(graph)[0], target=TOKEN, layer=3)


def test_the_top_is_the_largest(graph: Graph) -> None:
    table = loading_table(graph, Difference(4, 5, LAST))
    (source, head, loading), *_ = table.top(3)
    assert abs(loading) == float(table.per_head.abs().max())
    assert table.of(source, head.layer).per_head[head.head] == loading


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        (Bias(1), TOKEN, "the source b1"),
        (KeyValue(1, 0, "k", 2), TOKEN, "KeyValue"),
        (Head(1, 0, "q", 2), TOKEN, "nodes of the graph"),
        (Head(1, 0, None, 2), TOKEN, "a1.h0@2, which is no node"),
        (Embed(), TOKEN, "embed, which is no node"),
        (Embed(7), TOKEN, "embed@7"),
        (Feature(9, 1, 2), TOKEN, "f9.1@2"),
        (Feature(0, 99, 2), TOKEN, "f0.99@2"),
        (Embed(2), Embed(3), "the target embed@3"),
        (Embed(2), Feature(9, 1, 2), "f9.1@2"),
        (Embed(2), Token(99, 2), "token99@2"),
    ],
    ids=str,
)
def test_what_is_no_edge_is_told(graph: Graph, source: Any, target: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        head_loadings(graph, source, target=target, layer=1)
    assert "loading_table" not in str(raised.value)


def test_a_graph_from_a_file_has_no_model(graph: Graph, tmp_path: Any) -> None:
    graph.save(tmp_path / "graph.safetensors")
    with pytest.raises(ConfigError, match="from a file"):
        loading_table(Graph.load(tmp_path / "graph.safetensors"), TOKEN)
