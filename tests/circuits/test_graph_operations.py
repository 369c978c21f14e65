"""Subgraphs, scores of them, paths, groups, merging and comparing: against their definitions, written out."""

import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor

from tests.cases import HOSTS, Kind, tokens
from tl_transcoders.circuits.graphs import Bias, Graph, Token, attribution_graph, compare, merge
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.circuits.graphs.select import select
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, write_node
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import splice

PROMPT = tokens(1)
LAST = PROMPT.shape[1] - 1
TWINS = (3, 4)


def build(prompt: Tensor = PROMPT, silent: list[tuple[int, int]] | None = None) -> Graph:
    """A graph with ReLU transcoders, two of whose features are the same, some others silent."""
    model = HOSTS[0].build()
    torch.manual_seed(0)
    transcoders: Any = Kind("relu").build(model)
    for layer in transcoders:
        weights = transcoders[layer]
        weights.W_enc[:, TWINS[1]] = weights.W_enc[:, TWINS[0]]
        weights.W_dec[TWINS[1]] = weights.W_dec[TWINS[0]]
        weights.b_enc[TWINS[1]] = weights.b_enc[TWINS[0]]
        weights.b_enc -= 1.0
    for layer, index in silent or ():
        transcoders[layer].b_enc[index] = -1e6
    with splice(model, transcoders, error="keep") as spliced:
        return attribution_graph(spliced, prompt, targets=[3, (4, 5)])


@pytest.fixture(scope="module")
def graph() -> Graph:
    return build()


@pytest.fixture(scope="module")
def small(graph: Graph) -> Graph:
    return graph.prune(node=0.7, edge=0.95)


def sums(graph: Graph) -> Tensor:
    return graph.left_out.index_add(0, graph.target.long(), graph.effect)


def every_path(graph: Graph, source: int, target: int) -> list[list[int]]:
    """All of them, as numbers of edges, by walking."""
    if source == target:
        return [[]]
    found = []
    for edge in (graph.target == target).nonzero()[:, 0].tolist():
        ways = every_path(graph, source, int(graph.source[edge]))
        found += [[*way, edge] for way in ways]
    return found


def test_a_selection_is_a_subgraph_whose_rows_sum(graph: Graph) -> None:
    chosen = graph.select([Feature(1, TWINS[0]), Embed(2), *graph.outcomes])
    features = [node for node in chosen.nodes if isinstance(node, Feature)]
    assert len(features) > 1
    assert {(node.layer, node.index) for node in features} == {(1, TWINS[0])}
    targets = ~chosen.value.isnan()
    torch.testing.assert_close(sums(chosen)[targets], chosen.value[targets], atol=1e-4, rtol=1e-4)
    assert graph.select(lambda _: True).effect.equal(graph.effect)
    with pytest.raises(ConfigError, match=r"f2\.99"):
        graph.select([Feature(2, 99)])


def test_a_subgraph_scores_as_transcoders_without_the_other_features(graph: Graph) -> None:
    gone = [(layer, index) for layer in range(3) for index in range(0, 37, 2)]
    without = build(silent=gone)
    found = graph.subgraph_scores(
        lambda node: isinstance(node, Feature) and (node.layer, node.index) not in gone
    )
    assert found.replacement == pytest.approx(without.replacement_score, rel=1e-4)
    assert found.completeness == pytest.approx(without.completeness_score, rel=1e-4)
    assert found.replacement < graph.replacement_score
    assert graph.subgraph_scores(graph).replacement == pytest.approx(graph.replacement_score)
    pruned = graph.prune()
    errors = [node for node in graph.nodes if isinstance(node, Error)]
    by_hand = graph.subgraph_scores([*pruned.nodes, *errors])
    assert graph.subgraph_scores(pruned) == by_hand


def test_errors_that_were_pruned_are_there_again_for_scores(small: Graph) -> None:
    assert int(small.nodes.is_a("error").sum()) < 3 * len(small.tokens)
    nothing = small.subgraph_scores(lambda _: False)
    everything = small.subgraph_scores(small)
    assert 0 <= nothing.replacement < everything.replacement
    assert everything.replacement == pytest.approx(small.replacement_score)


@pytest.mark.parametrize("by", ["share", "effect"])
def test_the_strongest_paths_are_those_of_all(small: Graph, by: Any) -> None:
    outcome = small.outcomes[-1]
    source = int((small.influence() * small.nodes.is_a("embed")).argmax())
    target = small.number(outcome)
    flows = (~small.nodes.is_a("bias")[small.source.long()]).double()
    size = small.effect.abs().double() * flows
    into = torch.zeros(len(small.nodes), dtype=torch.float64).index_add(
        0, small.target.long(), size
    )
    share = size / into[small.target.long()]
    strengths = []
    for way in every_path(small, source, target):
        strength = 1.0
        for i, edge in enumerate(way):
            if by == "share":
                strength *= float(share[edge])
            else:
                activation = float(small.activation[small.source[edge].long()]) if i else 1.0
                strength *= float(small.effect[edge]) / activation
        strengths.append(strength)
    strengths.sort(key=abs, reverse=True)
    assert len(strengths) > 12
    found = small.paths(small.nodes[source], outcome, k=12, by=by)
    assert [path.strength for path in found] == pytest.approx(strengths[:12], rel=1e-6)
    for path in found:
        assert path.nodes[0] == small.nodes[source]
        assert path.nodes[-1] == outcome
        for s, t, effect in zip(path.nodes, path.nodes[1:], path.effects, strict=False):
            edge = (small.source == small.number(s)) & (small.target == small.number(t))
            assert float(small.effect[edge]) == effect
    several = small.paths(small.nodes[source], outcome, k=10_000, by=by)
    assert len(several) == len([s for s in strengths if s])
    wrong = replace(small, effect=small.effect * torch.linspace(0.9, 1.1, len(small.effect)))
    other = wrong.paths(small.nodes[source], outcome, k=12, by=by)
    assert [path.strength for path in other] != pytest.approx(strengths[:12], rel=1e-6)


def test_paths_by_share_sum_to_influence(small: Graph) -> None:
    only = replace(small, weight=(small.weight > 0).double())
    source = int((only.influence() * only.nodes.is_a("embed")).argmax())
    total = sum(
        path.strength
        for outcome in only.outcomes
        for path in only.paths(only.nodes[source], outcome, k=10_000)
    )
    assert total == pytest.approx(float(only.influence()[source]))
    assert only.paths(only.outcomes[0], only.nodes[source]) == []
    assert only.paths(Bias(0), only.outcomes[0]) == []
    with pytest.raises(ConfigError, match="1 or more"):
        only.paths(only.nodes[source], only.outcomes[0], k=0)


def test_groups_sum_the_edges_of_their_members(graph: Graph) -> None:
    words: dict[str, Any] = {
        "second layer": [n for n in graph.nodes if isinstance(n, Feature) and n.layer == 1]
    }
    words["text"] = [Embed()]
    grouped = graph.group(words)
    assert len(grouped.names) == len(set(grouped.names))
    total = grouped.left_out.index_add(0, grouped.target, grouped.effect)
    torch.testing.assert_close(total, grouped.value, atol=2e-3, rtol=1e-4)
    embed, layer = graph.nodes.is_a("embed"), graph.nodes.layer
    second = graph.nodes.is_a("feature") & (layer == 1)
    edges = embed[graph.source.long()] & second[graph.target.long()]
    _, table = grouped.to_pandas()
    found = table[(table.source == "text") & (table.target == "second layer")].effect.item()
    assert found == pytest.approx(float(graph.effect[edges].sum()), rel=1e-4)
    assert grouped.to_networkx().number_of_edges() == len(table)
    assert graph.group({}).effect.sort().values.equal(graph.effect.sort().values)
    with pytest.raises(ConfigError, match="another group"):
        graph.group({"a": [Embed(1)], "b": [Embed()]})
    with pytest.raises(ConfigError, match="no node"):
        graph.group({"a": []})


def test_features_that_are_the_same_are_alike(graph: Graph) -> None:
    pairs = [
        {(n.layer, n.pos) for n in nodes if isinstance(n, Feature) and n.index in TWINS}
        for nodes in graph.similar(0.999).values()
    ]
    active = {(n.layer, n.pos) for n in graph.nodes if isinstance(n, Feature) and n.index in TWINS}
    assert {place for pair in pairs for place in pair} == active
    assert all(len(pair) == 1 for pair in pairs)
    assert len(graph.similar(0.2)) > 0
    assert sum(map(len, graph.similar(0.2).values())) > sum(map(len, graph.similar(0.999).values()))
    with pytest.raises(ConfigError, match="cosines"):
        graph.similar(2.0)


def test_merging_is_the_mean_over_prompts(graph: Graph) -> None:
    other = build(tokens(1, seed=4))
    one, twice, both = merge([graph]), merge([graph, graph]), merge([graph, other])
    torch.testing.assert_close(one.effect, twice.effect)
    assert one.names == twice.names
    assert set(twice.count.tolist()) == {2}
    assert len(one.names) == len(set(one.names))
    nodes, table = both.to_pandas()
    everywhere = [
        {(n.layer, n.index) for n in g.nodes if isinstance(n, Feature)} for g in (graph, other)
    ]
    shared = sorted(everywhere[0] & everywhere[1])
    first, last = Feature(*shared[0]), Feature(*shared[-1])
    name = write_node(last)
    assert nodes[nodes.name == name]["count"].item() == 2
    for target, t in ((name, last), ("token3 'w3'", Token(3, LAST))):
        expected = sum(effect_between(part, first, t) for part in (graph, other)) / 2
        row = table[(table.source == write_node(first)) & (table.target == target)]
        assert row.effect.item() == pytest.approx(expected, rel=1e-4), target
    assert both.top(3, least=2)[0][3] == 2
    with pytest.raises(ConfigError, match="no graph"):
        merge([])


def effect_between(graph: Graph, source: Any, target: Any) -> float:
    """The sum over all their positions."""
    s, t = select(graph, [source]), select(graph, [target])
    return float(graph.effect[s[graph.source.long()] & t[graph.target.long()]].sum())


def test_comparing_tells_what_differs(graph: Graph, small: Graph) -> None:
    same = compare(graph, graph)
    assert (same.only_a, same.only_b) == ((), ())
    assert same.effect_a.equal(same.effect_b)
    fewer = compare(graph, small)
    assert set(fewer.only_a) == set(graph.nodes) - set(small.nodes)
    assert fewer.only_b == ()
    assert int(fewer.edge_in_b.sum()) == len(small.effect)
    changed = replace(graph, effect=graph.effect.clone())
    changed.effect[7] += 100
    ((source, target, a, b),) = compare(graph, changed).top(1)
    assert graph.number(source) == int(graph.source[7])
    assert graph.number(target) == int(graph.target[7])
    assert b - a == pytest.approx(100)
    assert len(compare(graph, changed).to_pandas()) == len(graph.effect)
    with pytest.raises(ConfigError, match="2 and 3 layers"):
        compare(graph, replace(graph, n_layers=2))


class _Links(HTMLParser):
    """What a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, value) for name, value in attrs if name in ("src", "href", "data")]
        self.found += [(tag, None)] * (tag in ("script", "link", "iframe", "object", "img"))
        self.found += [(tag, name) for name, _ in attrs if name.startswith("on")]


def test_a_page_holds_the_strongest_edges_and_no_code(small: Graph, tmp_path: Path) -> None:
    hostile = ('</title><script>alert("x")</script>', "a&b", "\n", "'", '"', "<b>", "é")
    graph = replace(small, words=hostile, vocabulary={3: "<img src=x>", 4: "\x00", 5: "&"})
    graph.save_html(tmp_path / "page.html", max_edges=30)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    links = _Links()
    links.feed(text)
    assert links.found == []
    svg = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    space = "{http://www.w3.org/2000/svg}"
    assert len(svg.findall(f"{space}path")) == 30
    titles = [title.text or "" for title in svg.iter(f"{space}title")]
    assert any("effect" in title and "→" in title for title in titles)
    assert any("<img src=x>" in title for title in titles)
    assert "the 30 strongest of" in text
    for node in svg.iter(f"{space}circle"):
        assert 0 <= float(node.attrib["cx"]) <= float(svg.attrib["width"])
        assert 0 <= float(node.attrib["cy"]) <= float(svg.attrib["height"])
    with pytest.raises(ConfigError, match="1 or more"):
        graph.save_html(tmp_path / "page.html", max_edges=0)


def test_heads_come_before_the_mlp_of_their_layer(graph: Graph) -> None:
    """A head of layer 1 that stands between an embedding and a feature of layer 1."""
    nodes: list[Any] = [Embed(0), Head(1, 0, None, 1), Feature(1, 2, 1), Token(3, 1)]
    line = replace(
        graph,
        tokens=graph.tokens[:2],
        words=graph.words[:2],
        nodes=NodeTable.of(nodes, 3),
        activation=torch.tensor([0.0, 0, 2, 0]),
        weight=torch.tensor([0.0, 0, 0, 1], dtype=torch.float64),
        value=torch.zeros(4),
        left_out=torch.zeros(4),
        source=torch.tensor([1, 0, 2]),
        target=torch.tensor([2, 1, 3]),
        effect=torch.tensor([3.0, 1, 4]),
    )
    assert line.influence().tolist() == [1, 1, 1, 0]
    assert len(line.prune().nodes) == 4
    (path,) = line.paths(Embed(0), Token(3, 1))
    assert (path.nodes, path.strength) == (tuple(nodes), 1)


@pytest.mark.slow
def test_a_large_graph_is_pruned_in_little_memory() -> None:
    command = [sys.executable, "-m", "benchmarks.graph_pruning", "--edges", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["nodes"] == 60_000
    assert found["kept_nodes"] < 60_000
    assert found["peak"] < 4_000
