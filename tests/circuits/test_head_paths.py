"""Paths of edges through heads: by inclusion and exclusion, by enumeration, and where the circuit is known."""

from itertools import product
from typing import Any

import pytest
import torch

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
from tl_transcoders.circuits.attention import head_path, head_paths, loading_table
from tl_transcoders.circuits.graphs import Graph, attribution_graph
from tl_transcoders.circuits.nodes import Embed, Feature, Head
from tl_transcoders.circuits.reference_attention import path_by_removal
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import splice

pytestmark = only_in_the_whole_table


def every_path(graph: Graph) -> list[tuple[Head, ...]]:
    """Through at most one head of each layer."""
    choices = [[None, Head(layer, 0), Head(layer, 1)] for layer in range(graph.n_layers)]
    return [tuple(head for head in path if head is not None) for path in product(*choices)]


@every_host
def test_paths_are_what_removal_says_and_sum_to_the_edge(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind) as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3])
        edge = edges_into(graph, TOKEN)[Embed(2)]
        parts = {p: head_path(graph, Embed(2), target=TOKEN, via=p) for p in every_path(graph)}
        size = sum(map(abs, parts.values()))
        assert sum(parts.values()) == pytest.approx(edge, abs=1e-5 * size)
        for via in list(parts)[::5]:
            slow = path_by_removal(run_of(graph), Embed(2), TOKEN, via)
            assert parts[via] == pytest.approx(slow, abs=2e-4 * size)
        found = head_paths(graph, Embed(2), target=TOKEN, k=100)
    assert found.complete
    assert found.total == pytest.approx(edge, abs=1e-5 * size)
    assert found.left_out == pytest.approx(0, abs=1e-5 * size)
    assert {path.heads: path.effect for path in found.paths} == {
        via: pytest.approx(part, abs=1e-5 * size) for via, part in parts.items() if part or not via
    }


@pytest.mark.slow
@every_host
def test_and_so_they_do_from_feature_to_feature(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind) as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3])
        target = features(graph)[-1]
        edges = {s: e for s, e in edges_into(graph, target).items() if isinstance(s, Feature)}
        for source, edge in sorted(edges.items(), key=lambda pair: -abs(pair[1]))[:3]:
            found = head_paths(graph, source, target=target, k=100)
            size = max(abs(edge), sum(abs(path.effect) for path in found.paths))
            assert found.total == pytest.approx(edge, abs=1e-5 * size)
            assert found.left_out == pytest.approx(0, abs=1e-5 * size)
            for path in found.paths[:4]:
                slow = path_by_removal(run_of(graph), source, target, path.heads)
                assert path.effect == pytest.approx(slow, abs=1e-3 * size)


def test_a_changed_weight_is_noticed() -> None:
    model = HOSTS[0].fresh()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3])
        via = [Head(1, 0), Head(2, 1)]
        fast = head_path(graph, Embed(2), target=TOKEN, via=via)
        with torch.no_grad():
            run_of(graph).model.anatomy.blocks[1].attention.W_V.mul_(1.05)
        slow = path_by_removal(run_of(graph), Embed(2), TOKEN, via)
    assert fast != pytest.approx(slow, rel=1e-2)


@pytest.fixture(scope="module")
def graph() -> Graph:
    with spliced_with(HOSTS[0]) as spliced:
        return attribution_graph(spliced, PROMPT, targets=[3])


def test_through_one_head_and_anything_else_is_its_loading(graph: Graph) -> None:
    loadings = loading_table(graph, TOKEN, sources=[Embed(2)]).per_head[0]
    for layer, head in ((0, 1), (1, 0), (2, 1)):
        part = head_path(graph, Embed(2), target=TOKEN, via=[Head(layer, head)], exact=False)
        assert part == pytest.approx(float(loadings[layer, head]), rel=1e-4)


def test_positions_of_a_head_sum_to_the_head(graph: Graph) -> None:
    whole = head_path(graph, Embed(2), target=TOKEN, via=[Head(1, 0)])
    at = [
        head_path(graph, Embed(2), target=TOKEN, via=[Head(1, 0, None, pos)])
        for pos in range(LAST + 1)
    ]
    assert sum(at) == pytest.approx(whole, abs=1e-6 * sum(map(abs, at)))


def test_a_narrow_beam_says_that_it_left_paths_out(graph: Graph) -> None:
    narrow = head_paths(graph, Embed(LAST), target=TOKEN, beam=2, k=3)
    assert not narrow.complete
    assert narrow.total == pytest.approx(
        narrow.left_out + sum(path.effect for path in narrow.paths)
    )
    for path in narrow.paths:
        assert path.effect == pytest.approx(
            head_path(graph, Embed(LAST), target=TOKEN, via=path.heads), rel=1e-4, abs=1e-8
        )


@pytest.mark.parametrize(
    ("truth", "host"), [c for c in TRUTHS if c[0].name == "A-linear-chain"], ids=case_id
)
def test_the_linear_chain_is_one_path(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        graph = attribution_graph(spliced, telling(truth), targets=[(ANSWER, WRONG)])
        found = head_paths(graph, Feature(0, 0, 1), target=Feature(1, 0, 3))
    best, *others = found.paths
    assert best.heads == (Head(1, 0),)
    assert best.effect == pytest.approx(found.total, abs=1e-12)
    assert all(abs(path.effect) < 1e-12 for path in others)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("via", "told"),
    [
        ([Head(2, 1), Head(1, 0)], "order of their layers"),
        ([Head(1, 1), Head(1, 0)], "one of a layer"),
        ([Head(3, 1)], "heads of layers 0 to 2"),
        ([Head(1, 2)], "heads 0 to"),
        ([Head(1, 1, "v")], "heads 0 to"),
        ([Head(1, 1, None, 7)], "positions 0 to 6"),
        (["a1.h1"], "heads 0 to"),
    ],
    ids=str,
)
def test_wrong_heads_are_told(graph: Graph, via: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        head_path(graph, Embed(2), target=TOKEN, via=via)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("options", [{"k": 0}, {"beam": 0}, {"k": True}], ids=str)
def test_wrong_sizes_are_told(graph: Graph, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        head_paths(graph, Embed(2), target=TOKEN, **options)
