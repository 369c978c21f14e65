"""Graphs with heads as nodes: rows that sum, edges against removal, influence, files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import HOSTS, Host, Kind, case_id, only_in_the_whole_table
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
from tl_transcoders.circuits.attention import head_paths, loading_table, with_heads
from tl_transcoders.circuits.graphs import Bias, Difference, Graph, attribution_graph
from tl_transcoders.circuits.graphs.influence import shares
from tl_transcoders.circuits.graphs.nodes import write
from tl_transcoders.circuits.graphs.removal import Removal
from tl_transcoders.circuits.nodes import Embed, Feature, Head
from tl_transcoders.circuits.reference_attention import effect_without
from tl_transcoders.errors import ConfigError, SpliceError
from tl_transcoders.splice import splice

pytestmark = only_in_the_whole_table


def sums(graph: Graph) -> Tensor:
    return graph.left_out.index_add(0, graph.target.long(), graph.effect)


def sizes(graph: Graph) -> Tensor:
    return torch.zeros_like(graph.value).index_add(0, graph.target.long(), graph.effect.abs())


def heads_of(graph: Graph) -> list[Head]:
    return [node for node in graph.nodes if isinstance(node, Head)]


@every_host
def test_rows_sum_and_a_head_is_worth_its_influence(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind) as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3, (4, 5)], max_features=25)
        found = with_heads(graph, 7, memory=1 << 16)
        assert found.validate(20).gap < 1e-4
    assert len(heads_of(found)) == 7
    assert found.gap < 1e-5
    targets = ~found.value.isnan()
    gap = (
        (sums(found) - found.value)[targets].abs() / sizes(found)[targets].clamp(min=1e-30)
    ).max()
    assert gap < 1e-4
    torch.testing.assert_close(found.value[: len(graph.nodes)], graph.value, equal_nan=True)
    is_head = found.nodes.is_a("head")
    torch.testing.assert_close(
        found.influence()[is_head], found.value[is_head].double(), atol=1e-7, rtol=1e-4
    )
    assert (found.value[is_head] > 0).all()


@every_host
def test_edges_keep_what_passes_through_no_chosen_head(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind) as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3])
        found = with_heads(graph, [Head(1, 0), Head(2, 1, None, LAST)])
        held = tuple(heads_of(found))
        assert len({head.pos for head in held if head.layer == 1}) > 1
        for target in (TOKEN, features(graph)[-1]):
            before, after = edges_into(graph, target), edges_into(found, target)
            size = max(map(abs, before.values()))
            for source in [s for s in before if not isinstance(s, Bias)][::9]:
                (slow,) = effect_without(run_of(graph), source, target, [held]).tolist()
                assert after.get(source, 0.0) == pytest.approx(slow, abs=2e-4 * size)
            table = loading_table(found, target)
            ordinary = [i for i, s in enumerate(table.sources) if not isinstance(s, Head)]
            for i in ordinary:
                assert float(table.total[i]) == pytest.approx(
                    after[table.sources[i]], abs=1e-5 * size
                )


@every_host
def test_a_heads_row_is_what_arrives_along_its_direction(host: Host, kind: Kind) -> None:
    """All heads of one layer: then Σ_t c_t (effect when the head may notice − when it may not) is its row."""
    with spliced_with(host, kind) as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3], max_features=12)
        found = with_heads(graph, [Head(1, 0), Head(1, 1)])
        assert_rows(found, heads_of(found)[::5], 5e-4)


def assert_rows(found: Graph, heads: list[Head], tolerance: float) -> None:
    run, held = run_of(found), tuple(heads_of(found))
    (own,) = (~found.value.isnan() & ~found.nodes.is_a("head")).nonzero(as_tuple=True)
    for head in heads:
        row, c = edges_into(found, head), directions(found, head)[own]
        noise = 1e-6 * float(c.abs() @ found.value[own].abs().double())
        size = tolerance * max(map(abs, row.values())) + noise
        sources: Any = [s for s in row if not isinstance(s, Bias)]
        for source in sources[::7]:
            others = tuple(other for other in held if other != head)
            removal = Removal(run, (source, source), found.nodes.take(own), held=(others, held))
            changed = removal.run_all()
            expected = float(c @ (changed[1] - changed[0]).double())
            assert row[source] == pytest.approx(expected, abs=size)


def directions(graph: Graph, head: Head) -> Tensor:
    """(influence + weight)[t] · sign(effect[t ← h]) / Σ |effect into t| of every node."""
    flows = ~graph.nodes.is_a("bias")[graph.source.long()]
    target, effect = graph.target[flows].long(), graph.effect[flows].double()
    total = torch.zeros(len(graph.nodes), dtype=torch.float64)
    total.index_add_(0, target, effect.abs())
    from_head = torch.zeros_like(total)
    here = graph.source == graph.number(head)
    from_head[graph.target[here].long()] = graph.effect[here].double()
    return (graph.influence() + graph.weight) * from_head.sign() / total.clamp(min=1e-30)


def test_a_changed_weight_is_noticed() -> None:
    model = HOSTS[0].fresh()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3], max_features=12)
        found = with_heads(graph, [Head(1, 0)])
        with torch.no_grad():
            run_of(graph).model.anatomy.blocks[1].attention.W_V.mul_(1.5)
        with pytest.raises(AssertionError):
            assert_rows(found, heads_of(found)[:2], 5e-4)
        assert found.validate(500).gap > 1e-3


@pytest.mark.parametrize("factor", [1.5, float("nan")])
def test_rows_that_do_not_sum_are_an_error(factor: float) -> None:
    model = HOSTS[0].fresh()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3], max_features=12)
        with torch.no_grad():
            run_of(graph).model.anatomy.blocks[1].attention.W_V.mul_(factor)
        with pytest.raises(SpliceError, match="with_heads: got rows that miss"):
            with_heads(graph, [Head(2, 0)])


@pytest.fixture(scope="module")
def graph() -> Graph:
    with spliced_with(HOSTS[0]) as spliced:
        return attribution_graph(spliced, PROMPT, targets=[3, (4, 5)])


@pytest.fixture(scope="module")
def explained(graph: Graph) -> Graph:
    return with_heads(graph, 9)


def test_influence_is_the_sum_over_all_ways(explained: Graph) -> None:
    dense = torch.zeros(len(explained.nodes), len(explained.nodes), dtype=torch.float64)
    flows = ~explained.nodes.is_a("bias")[explained.source.long()]
    target, source = explained.target[flows].long(), explained.source[flows].long()
    dense[target, source] = shares(target, explained.effect[flows], len(dense))
    total, passing = torch.zeros_like(explained.weight), explained.weight @ dense
    while passing.any():
        total, passing = total + passing, passing @ dense
    torch.testing.assert_close(explained.influence(), total)


def test_it_can_be_pruned_and_still_sums(explained: Graph) -> None:
    pruned = explained.prune(node=0.9)
    assert heads_of(pruned)
    assert len(pruned.nodes) < len(explained.nodes)
    targets = ~pruned.value.isnan()
    torch.testing.assert_close(sums(pruned)[targets], pruned.value[targets], atol=1e-4, rtol=1e-4)
    assert 0 < pruned.replacement_score < 1


def test_a_pruned_graph_keeps_what_its_heads_cut(explained: Graph) -> None:
    pruned = explained.prune(node=0.5, edge=0.9)
    assert len(pruned.cut) == int(explained.nodes.is_a("head").sum())
    assert 0 < int(pruned.nodes.is_a("head").sum()) < len(pruned.cut)
    assert pruned.validate(20).gap < 1e-4
    checked = 0
    for source, target, effect in pruned.top(60):
        if not isinstance(source, Bias | Head) and not isinstance(target, Head):
            table = loading_table(pruned, target, sources=[source])
            assert float(table.total[0]) == pytest.approx(effect, rel=1e-3, abs=1e-5)
            assert head_paths(pruned, source, target=target).total == pytest.approx(
                effect, rel=1e-3, abs=1e-5
            )
            checked += 1
    assert checked > 3


def test_ways_through_heads_are_among_the_strongest(explained: Graph, tmp_path: Path) -> None:
    (head, *_), target = heads_of(explained), explained.outcomes[0]
    row = edges_into(explained, head)
    source = max((s for s in row if not isinstance(s, Bias)), key=lambda s: abs(row[s]))
    for by in ("share", "effect"):
        ways = explained.paths(source, target, k=500, by=by)
        assert any(head in way.nodes for way in ways)
    assert explained.path_length > 1
    explained.save_html(tmp_path / "graph.html")
    assert 'class="node head"' in (tmp_path / "graph.html").read_text(encoding="utf-8")


def test_a_file_holds_its_heads(explained: Graph, tmp_path: Path) -> None:
    explained.save(tmp_path / "graph.safetensors")
    again = Graph.load(tmp_path / "graph.safetensors")
    assert list(again.nodes) == list(explained.nodes)
    head = heads_of(again)[0]
    assert write(head) == f"a{head.layer}.h{head.head}@{head.pos}"
    nodes, _ = again.to_pandas()
    assert write(head) in set(nodes["name"])
    torch.testing.assert_close(again.influence(), explained.influence())


def test_a_pruned_graph_leaves_out_what_it_left_out(graph: Graph) -> None:
    found = with_heads(graph.prune(node=0.5), 3)
    targets = ~found.value.isnan()
    torch.testing.assert_close(sums(found)[targets], found.value[targets], atol=1e-4, rtol=1e-4)
    assert found.left_out.any()


@pytest.mark.parametrize(
    ("truth", "host"), [c for c in TRUTHS if c[0].name == "A-linear-chain"], ids=case_id
)
def test_the_head_of_the_linear_chain_is_its_node(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        graph = attribution_graph(spliced, telling(truth), targets=[(ANSWER, WRONG)])
        found = with_heads(graph, 1)
    head, feature = Head(1, 0, None, 3), Feature(1, 0, 3)
    assert heads_of(found) == [head]
    into = edges_into(found, feature)
    assert into[head] == pytest.approx(edges_into(graph, feature)[Feature(0, 0, 1)], abs=1e-9)
    assert Feature(0, 0, 1) not in {s for s, e in into.items() if abs(e) > 1e-9}
    row = edges_into(found, head)
    assert {s for s, e in row.items() if abs(e) > 1e-9} == {Feature(0, 0, 1)}
    assert edges_into(found, Difference(ANSWER, WRONG, 3))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("heads", "told"),
    [
        (0, "1 or more"),
        (True, "1 or more"),
        ([Head(3, 0)], "layers 0 to 2"),
        ([Head(1, 0, None, 7)], "0 to 6"),
        ([Embed(1)], "a head of"),
    ],
    ids=str,
)
def test_wrong_heads_are_told(graph: Graph, heads: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        with_heads(graph, heads)


def test_heads_are_named_once(explained: Graph) -> None:
    with pytest.raises(ConfigError, match="Name all heads at once"):
        with_heads(explained, 3)
