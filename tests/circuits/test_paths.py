"""Greedy paths: steps that sum, all ways together against the autograd twin, known circuits, filters, graphs of paths."""

from collections import defaultdict
from typing import Any

import pytest
import torch

from tests.cases import BOS, HOSTS, Host, Kind, case_id, tokens
from tests.circuits.truth import ANSWER, WRONG, Truth
from tests.circuits.truths import TRUTHS
from tl_transcoders.circuits.graphs import Difference, Token
from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, Mlp, Node
from tl_transcoders.circuits.reference_graphs import autograd_graph
from tl_transcoders.circuits.weights import Match, Path, PathGraph, Paths, Skip, greedy_paths
from tl_transcoders.circuits.weights.reading import Reading, RunReader
from tl_transcoders.circuits.weights.roots import root
from tl_transcoders.errors import ConfigError, ShapeError, SpliceError
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

SKIP = Kind("topk-skip", TopK(5), skip=True)
CLT = Kind("clt", TopK(5), cross_layer=True)
KINDS = [
    SKIP,
    CLT,
    Kind("relu"),
    Kind("after-post-norm", TopK(5), skip=True, write="mlp_out"),
    Kind("normalized", TopK(5), read="ln2_normalized"),
    Kind("two-layers", TopK(5), skip=True, layers=(0, 2)),
]
PROMPT = tokens(1, 3)
SLOW = pytest.mark.slow
FEW = [Host("gpt2", "bridge", False), Host("gemma3", "bridge", False)]
DEFAULT = [(FEW[0], CLT)]
CASES = [
    pytest.param(host, kind, marks=() if (host, kind) in DEFAULT else SLOW)
    for host in HOSTS
    for kind in KINDS
]


def spliced_with(kind: Kind = SKIP, host: Host = HOSTS[0], **options: Any) -> Spliced:
    model = host.build()
    return splice(model, kind.build(model), **({"error": "keep"} | options))


def by_all_ways(reader: RunReader, reading: Reading, found: dict[Node, float]) -> float:
    """What every source contributes through heads and skips of any number; returns what biases do."""
    terms = reader.terms(reading)
    bias = terms.bias
    for row, value in zip(terms.rows, terms.value.tolist(), strict=True):
        further = reader.follow(reading, row, value)
        if isinstance(further, Reading) and isinstance(further.node, Head | Skip):
            bias += by_all_ways(reader, further, found)
        else:
            node = further.node if isinstance(further, Reading) else further
            assert isinstance(node, Embed | Feature | Error | Mlp)
            found[node] += value
    return bias


@pytest.mark.parametrize(("host", "kind"), CASES, ids=case_id)
def test_all_ways_together_are_the_edges_of_the_autograd_twin(host: Host, kind: Kind) -> None:
    exclude = [BOS] if kind.skip else None
    with torch.no_grad(), spliced_with(kind, host, exclude=exclude) as spliced:
        run = capture(spliced, PROMPT)
        active = run.values["features", 2]
        feature = Feature(2, int(active.indices[active.rows() == 2][0]), 2)
        slow = autograd_graph(spliced, PROMPT, [feature, (3, None)])
        frame = Frame.of(run)
        for target, expected in zip((feature, Token(3, 2)), slow, strict=True):
            found: dict[Node, float] = defaultdict(float)
            reading = root(frame, target)
            bias = by_all_ways(RunReader(frame), reading, found)
            size = max(map(abs, expected.values()))
            for node in found.keys() | expected.keys():
                assert abs(found.get(node, 0) - expected.get(node, 0)) <= 1e-5 * size, node
            assert abs(sum(found.values()) + bias - reading.value) <= 1e-4 * size


def test_a_changed_weight_does_not_sum() -> None:
    model = HOSTS[0].build()
    transcoders = SKIP.build(model)
    with splice(model, transcoders, error="keep") as spliced:
        run = capture(spliced, PROMPT)
        greedy_paths(spliced, run, target=(4, 5), branches=20)
        for layer in transcoders:
            transcoders[layer].W_enc[3].add_(0.01)
        with pytest.raises(SpliceError, match="rows that miss"):
            greedy_paths(spliced, run, target=(4, 5), branches=20)


@pytest.mark.parametrize(
    ("truth", "host"), [c for c in TRUTHS if c[0].name == "A-linear-chain"], ids=case_id
)
def test_the_linear_chain_is_the_only_path(truth: Truth, host: str) -> None:
    """x is 3 in the source run: f0.0 = 3 writes 2 · 3, the head moves 3 times it, f1.0 reads it, writes 5 times it."""
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        run = capture(spliced, truth.source_tokens)
        paths = greedy_paths(spliced, run, target=(ANSWER, WRONG), depth=4, among=Match(kind=CHAIN))
    assert paths.gap < 1e-10
    whole = 3 * 2 * 3 * 5
    (path,) = (path for path in paths.levels[4] if abs(path.value) > 1e-9)
    passed = (Embed(1), Feature(0, 0, 1), Head(1, 0, "v", 1), Feature(1, 0, 3))
    assert path.nodes == (*passed, Difference(ANSWER, WRONG, 3))
    assert str(path).startswith("embed@1 90 -> f0.0@1 90 -> ")
    for step in path.passed[:-1]:
        assert step.value == pytest.approx(whole, abs=1e-9)
    constants = 7 + 2  # of the MLPs, which the transcoders do not have
    account = paths.accounts[path.nodes[-1:]]
    assert account.errors == pytest.approx(0.5 * 3 * 2 * 3 + constants, abs=1e-9)


CHAIN = ("head", "feature", "embed")


@pytest.mark.parametrize(
    ("truth", "host"),
    [pytest.param(*case, marks=() if i % 4 == 0 else SLOW) for i, case in enumerate(TRUTHS)],
    ids=case_id,
)
def test_steps_sum_on_models_whose_circuits_are_known(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        run = capture(spliced, truth.source_tokens)
        paths = greedy_paths(spliced, run, target=(ANSWER, WRONG), depth=5)
    assert paths.gap < 1e-10
    assert paths.levels[0][0].value == pytest.approx(float(truth.metric(run.logits)), abs=1e-9)


@pytest.fixture(scope="module")
def paths() -> Paths:
    with spliced_with() as spliced:
        return greedy_paths(spliced, tokens(1), target=(4, 5), depth=3, branches=12, rank="raw")


def test_the_best_are_continuations_of_the_best(paths: Paths) -> None:
    assert [len(level) for level in paths.levels] == [1, 12, 12, 12]
    for shorter, longer in zip(paths.levels, paths.levels[1:], strict=False):
        begun = {path.nodes for path in shorter}
        assert all(path.nodes[1:] in begun for path in longer)
        sizes = [abs(path.value) for path in longer]
        assert sizes == sorted(sizes, reverse=True)
    assert any(path.value < 0 for path in paths)
    assert len(str(paths).splitlines()) == len(paths) == 37


def test_accounts_and_graphs_add_up(paths: Paths) -> None:
    for nodes, account in paths.accounts.items():
        kept = sum(path.value for path in paths if path.nodes[1:] == nodes)
        parts = account.kept + account.bias + account.errors + account.left_out
        assert account.kept == pytest.approx(kept)
        assert parts == pytest.approx(account.value, abs=1e-5)
    graph = PathGraph.of(paths)
    for whole in (graph, graph.over_positions()):
        for node, account in whole.nodes.items():
            into = sum(value for (_, reader), value in whole.edges.items() if reader == node)
            parts = into + account.bias + account.errors + account.left_out
            assert parts == pytest.approx(account.value, abs=1e-5)
    network = graph.to_networkx()
    assert len(network) == len(graph.nodes)
    assert network.number_of_edges() == len(graph.edges)
    (target,) = paths.levels[0][0].nodes
    assert network.nodes[target]["value"] == paths.levels[0][0].value


def test_a_node_reached_twice_counts_every_way_once(paths: Paths) -> None:
    graph = PathGraph.of(paths)
    suffixes = {path.nodes[n:]: s.value for path in paths for n, s in enumerate(path.passed)}
    for node, account in graph.nodes.items():
        ways = [value for nodes, value in suffixes.items() if nodes[0] == node]
        assert account.value == pytest.approx(sum(ways))
    assert len(suffixes) > len(graph.nodes)


def test_filters_keep_what_matches(paths: Paths) -> None:
    head, feature = Match(kind="head"), Match(kind=("feature",), layer=range(3))
    starting = paths.starting(feature)
    assert set(starting) == {path for path in paths if isinstance(path.nodes[0], Feature)}
    assert 0 < len(paths.starting(feature, Match(kind="feature"))) < len(starting)
    through = paths.through(feature, head)
    assert set(through) == {p for p in paths if _follows(p, Feature, Head)}
    assert set(through) | set(paths.without(feature, head)) == set(paths)
    totals = dict(paths.totals(among=feature))
    assert totals
    for node, value in totals.items():
        assert value == pytest.approx(sum(p.value for p in paths if p.nodes[0] == node))
    assert Feature(2, 7, 3) in Match(index=7)
    assert Feature(2, 7, 3) not in Match(pos=[1, 2])
    assert Token(3, 3) not in Match()
    assert Skip(1, 4) in Match(kind="skip", layer=1)


def _follows(path: Path, first: type, second: type) -> bool:
    pairs = zip(path.nodes, path.nodes[1:], strict=False)
    return any(isinstance(a, first) and isinstance(b, second) for a, b in pairs)


def test_only_what_is_allowed_is_passed() -> None:
    with spliced_with() as spliced:
        allowed = Match(kind=["feature", "head"], pos=range(1, 7))
        paths = greedy_paths(spliced, tokens(1), target="w3", depth=2, branches=9, among=allowed)
    assert len(paths) > 9
    assert all(node in allowed for path in paths for node in path.nodes[:-1])


def test_no_feature_loses_more_than_it_has() -> None:
    with spliced_with() as spliced:
        paths = greedy_paths(spliced, tokens(1), target=(4, 5), depth=2, branches=25)
    assert any(path.capped != path.value for path in paths)
    for path in paths:
        expected = path.value
        for step in path.passed[1:]:
            if isinstance(step.node, Feature) and expected / step.value > 1:
                expected = step.value
        assert path.capped == pytest.approx(expected)


@pytest.mark.usefixtures("unchecked")
def test_wrong_questions_are_told() -> None:
    with spliced_with() as spliced:
        for options, told in (
            ({"depth": 0}, "depth"),
            ({"branches": 0}, "branches"),
            ({"rank": "best"}, "rank"),
        ):
            with pytest.raises(ConfigError, match=told):
                greedy_paths(spliced, PROMPT, target=3, **options)
        for target, told in ((99, "token 99"), (Feature(2, 99, 1), "0 to 36"), (Token(3, 9), "9")):
            with pytest.raises(ConfigError, match=f"greedy_paths, target.*{told}"):
                greedy_paths(spliced, PROMPT, target=target)
        with pytest.raises(ConfigError, match="'neuron'"):
            Match(kind="neuron")
        with pytest.raises(ShapeError, match="2 prompts"):
            greedy_paths(spliced, PROMPT.expand(2, -1), target=3)
        with pytest.raises(ConfigError, match="token ids"):
            greedy_paths(spliced, torch.zeros(1, 3), target=3)
    with pytest.raises(SpliceError):
        greedy_paths(spliced, PROMPT, target=3)
    with pytest.raises(ConfigError, match="a spliced model"):
        greedy_paths(HOSTS[0].build(), PROMPT, target=3)
    sae = Kind("sae-resid_post", TopK(5), read="resid_post", write="resid_post", layers=(1,))
    with spliced_with(sae) as spliced, pytest.raises(SpliceError, match="SAEs"):
        greedy_paths(spliced, PROMPT, target=3)
