"""What a graph can do: budgets, influence, pruning, scores, files; and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import HOSTS, Host, Kind, tokens
from tl_transcoders.circuits.graphs import (
    Difference,
    Graph,
    Token,
    TopTokens,
    attribution_graph,
)
from tl_transcoders.circuits.nodes import Embed, Feature
from tl_transcoders.errors import ConfigError, ShapeError, SpliceError, TranscoderFormatError
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.transcoders import TopK

HOST, PROMPT = HOSTS[0], tokens(1)
LAST = PROMPT.shape[1] - 1
KIND = Kind("topk-skip", TopK(5), skip=True)
CLT = Kind("clt", TopK(5), cross_layer=True)


def spliced_with(kind: Kind = KIND, host: Host = HOST, **options: Any) -> Spliced:
    model = host.build()
    return splice(model, kind.build(model), **({"error": "keep"} | options))


@pytest.fixture(scope="module")
def graph() -> Graph:
    with spliced_with() as spliced:
        return attribution_graph(spliced, PROMPT)


def matrix(graph: Graph) -> Tensor:
    """The whole adjacency, biases without edges."""
    dense = torch.zeros(len(graph.nodes), len(graph.nodes), dtype=torch.float64)
    dense[graph.target.long(), graph.source.long()] = graph.effect.double()
    dense[:, graph.nodes.is_a("bias")] = 0
    return dense


def by_powers(dense: Tensor, weight: Tensor) -> Tensor:
    """w (S + S² + …), multiplied out until nothing is left."""
    share = dense.abs() / dense.abs().sum(1, keepdim=True).clamp(min=1e-30)
    total, passing = torch.zeros_like(weight), weight @ share
    while passing.any():
        total, passing = total + passing, passing @ share
    return total


def test_influence_is_the_sum_over_all_ways(graph: Graph) -> None:
    torch.testing.assert_close(graph.influence(), by_powers(matrix(graph), graph.weight))


def test_scores_follow_their_definitions(graph: Graph) -> None:
    dense = matrix(graph)
    found = by_powers(dense, graph.weight)
    errors, embeds = graph.nodes.is_a("error"), graph.nodes.is_a("embed")
    replacement = found[embeds].sum() / (found[embeds].sum() + found[errors].sum())
    share = dense.abs() / dense.abs().sum(1, keepdim=True).clamp(min=1e-30)
    weight = found + graph.weight
    completeness = (weight * (1 - share[:, errors].sum(1))).sum() / weight.sum()
    assert graph.replacement_score == pytest.approx(float(replacement))
    assert graph.completeness_score == pytest.approx(float(completeness))


def test_outcomes_are_the_most_probable_tokens(graph: Graph) -> None:
    assert graph.run is not None
    p = graph.run.logits[0, -1].double().softmax(-1)
    assert list(graph.outcomes) == [Token(int(i), LAST) for i in p.topk(10).indices]
    torch.testing.assert_close(graph.weight[graph.weight > 0], p.topk(10).values)


def test_a_pruned_graph_is_the_peers_by_a_dense_twin(graph: Graph) -> None:
    dense, found = matrix(graph), graph.influence()
    ordered = found.sort(descending=True).values
    least = ordered[(ordered.cumsum(0) / ordered.sum() < 0.8).sum()]
    kept = (found >= least) | graph.nodes.is_a("embed") | (graph.weight > 0)
    dense[~kept] = 0
    dense[:, ~kept] = 0
    share = dense.abs() / dense.abs().sum(1, keepdim=True).clamp(min=1e-30)
    scores = share * (by_powers(dense, graph.weight) + graph.weight)[:, None]
    ordered = scores.flatten().sort(descending=True).values
    least = ordered[(ordered.cumsum(0) / ordered.sum() < 0.98).sum()]
    dense[scores < least] = 0
    feature, error = graph.nodes.is_a("feature"), graph.nodes.is_a("error")
    for _ in range(len(kept)):
        into, out = (dense != 0).any(1), (dense != 0).any(0)
        gone = (feature & ~into) | ((feature | error) & ~out)
        dense[gone], kept = 0, kept & ~gone
        dense[:, gone] = 0
    pruned = graph.prune(node=0.8, edge=0.98)
    assert set(pruned.nodes) - set(pruned.nodes.take(pruned.nodes.is_a("bias"))) == set(
        graph.nodes.take(kept)
    )
    flows = ~pruned.nodes.is_a("bias")[pruned.source.long()]
    assert int(flows.sum()) == int((dense != 0).sum())


def sums(graph: Graph) -> Tensor:
    return graph.left_out.index_add(0, graph.target.long(), graph.effect)


def test_rows_of_a_pruned_graph_still_sum(graph: Graph) -> None:
    pruned = graph.prune()
    assert len(pruned.nodes) < len(graph.nodes)
    targets = ~pruned.value.isnan()
    torch.testing.assert_close(sums(pruned)[targets], pruned.value[targets], atol=1e-4, rtol=1e-4)


def test_pruning_nothing_drops_only_what_leads_nowhere(graph: Graph) -> None:
    led = graph.prune(node=1.0, edge=1.0)
    gone = set(graph.nodes) - set(led.nodes)
    influence = dict(zip(graph.nodes, graph.influence().tolist(), strict=True))
    assert gone
    assert all(influence[node] == 0 for node in gone)
    same = led.prune(node=1.0, edge=1.0)
    assert same.nodes.rows.equal(led.nodes.rows)
    assert same.effect.equal(led.effect)
    assert same.left_out.equal(led.left_out)


@pytest.mark.parametrize("kind", [KIND, CLT], ids=str)
def test_a_budget_gives_the_same_rows_of_fewer_features(kind: Kind) -> None:
    with spliced_with(kind) as spliced:
        whole = attribution_graph(spliced, PROMPT)
        few = attribution_graph(spliced, PROMPT, max_features=20, per_update=7, memory=1)
        same = attribution_graph(spliced, PROMPT, max_features=10_000)
    assert int(few.nodes.is_a("feature").sum()) == 20
    assert same.effect.equal(whole.effect)
    number = torch.tensor([whole.number(node) for node in few.nodes])
    dense = torch.zeros(len(whole.nodes), len(whole.nodes))
    dense[whole.target.long(), whole.source.long()] = whole.effect
    theirs = dense[number[few.target.long()], number[few.source.long()]]
    torch.testing.assert_close(few.effect, theirs, atol=1e-6, rtol=1e-4)
    targets = ~few.value.isnan()
    torch.testing.assert_close(sums(few)[targets], few.value[targets], atol=1e-4, rtol=1e-4)


def test_the_first_batch_is_the_most_influential() -> None:
    with spliced_with() as spliced:
        few = attribution_graph(spliced, PROMPT, max_features=6, targets=[3])
        whole = attribution_graph(spliced, PROMPT, targets=[3])
    outcome = whole.number(Token(3, LAST))
    direct = {whole.nodes[int(s)]: abs(float(e)) for s, t, e in zip(
        whole.source, whole.target, whole.effect, strict=True) if t == outcome}  # fmt: skip
    features = sorted((n for n in direct if isinstance(n, Feature)), key=lambda n: -direct[n])
    assert set(few.nodes.take(few.nodes.is_a("feature"))) == set(features[:6])


def test_any_feature_can_be_explained() -> None:
    with spliced_with() as spliced:
        active = attribution_graph(spliced, PROMPT)
        features = list(active.nodes.take(active.nodes.is_a("feature")))
        silent = next(Feature(2, i, LAST) for i in range(37) if Feature(2, i, LAST) not in features)
        graph = attribution_graph(
            spliced, PROMPT, targets=[silent, features[-1], (3, 4)], max_features=3
        )
    assert set(graph.outcomes) == {silent, features[-1], Difference(3, 4, LAST)}
    assert graph.validate(50).gap < 1e-4


def test_a_file_gives_the_same_graph(graph: Graph, tmp_path: Path) -> None:
    graph.save(tmp_path / "graph.safetensors")
    again = Graph.load(tmp_path / "graph.safetensors")
    assert list(tmp_path.iterdir()) == [tmp_path / "graph.safetensors"]
    assert again.nodes.rows.equal(graph.nodes.rows)
    assert again.effect.equal(graph.effect)
    assert again.words == graph.words
    torch.testing.assert_close(again.value, graph.value, equal_nan=True, rtol=0, atol=0)
    assert again.prune().effect.equal(graph.prune().effect)
    with pytest.raises(ConfigError, match="from a file"):
        again.validate()


def test_a_damaged_file_is_refused(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    graph.save(path)
    whole = path.read_bytes()
    for n in (0, 7, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(TranscoderFormatError, match="Save the graph again"):
            Graph.load(path)
    path.write_bytes(whole.replace(b"tl_transcoders.graph", b"tl_transcoders.grape"))
    with pytest.raises(TranscoderFormatError, match="grape"):
        Graph.load(path)


def test_tables_and_networks_hold_every_edge(graph: Graph) -> None:
    nodes, edges = graph.to_pandas()
    network = graph.to_networkx()
    assert len(nodes) == len(graph.nodes) == len(network)
    assert len(edges) == len(graph.effect) == network.number_of_edges()
    ((source, target, effect),) = graph.top(1)
    assert abs(effect) == float(graph.effect.abs().max())
    assert network.edges[source, target]["effect"] == pytest.approx(effect)
    into = graph.top(3, target=Token(int(graph.outcomes[0].token), LAST))
    assert {t for _, t, _ in into} == {graph.outcomes[0]}


def test_without_errors_there_is_nothing_to_score() -> None:
    with spliced_with(error="drop") as spliced:
        graph = attribution_graph(spliced, PROMPT)
    assert not graph.nodes.is_a("error").any()
    assert graph.gap < 1e-5
    for score in ("replacement_score", "completeness_score"):
        with pytest.raises(ConfigError, match='error="keep"'):
            getattr(graph, score)


def test_a_layer_without_transcoder_is_a_node() -> None:
    with spliced_with(Kind("two", TopK(5), layers=(0, 2))) as spliced:
        graph = attribution_graph(spliced, PROMPT)
    whole = graph.nodes.take(graph.nodes.is_a("mlp"))
    assert whole.layer.tolist() == [1] * PROMPT.shape[1]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"targets": [53]}, "token 53"),
    ({"targets": [-1]}, "token -1"),
    ({"targets": ["w3 w4"]}, "2 tokens"),
    ({"targets": []}, "got none"),
    ({"targets": [1.5]}, r"1\.5"),
    ({"targets": [Token(3, 7)]}, "position 7"),
    ({"targets": [Feature(5, 0, 1)]}, r"f5\.0@1"),
    ({"targets": [Feature(2, 37, 1)]}, "0 to 36"),
    ({"max_features": 0}, "max_features"),
    ({"per_update": 0}, "per_update"),
    ({"memory": 0}, "memory"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("options", "told"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_arguments_are_told(options: dict[str, Any], told: str) -> None:
    with spliced_with() as spliced, pytest.raises(ConfigError, match=told):
        attribution_graph(spliced, PROMPT, **options)


@pytest.mark.usefixtures("unchecked")
def test_wrong_prompts_and_models_are_told(graph: Graph) -> None:
    with spliced_with() as spliced:
        for prompt, error, told in (
            (PROMPT[:, :1], ShapeError, "one token"),
            (PROMPT.expand(2, -1), ShapeError, "2 prompts"),
            (tokens(1, 65), ConfigError, "attribution_graph, prompt.*64"),
        ):
            with pytest.raises(error, match=told):
                attribution_graph(spliced, prompt)
        with pytest.raises(ConfigError, match="share, above 0"):
            graph.prune(node=0)
        with pytest.raises(ConfigError, match="no node of it"):
            graph.top(3, target=Embed(99))
        with pytest.raises(ConfigError, match="mass"):
            TopTokens(0)
    with pytest.raises(SpliceError):
        attribution_graph(spliced, PROMPT)
    with pytest.raises(ConfigError, match="a spliced model"):
        attribution_graph(HOST.build(), PROMPT)
    sae = Kind("sae-resid_post", TopK(5), read="resid_post", write="resid_post", layers=(1,))
    with spliced_with(sae) as spliced, pytest.raises(SpliceError, match="SAEs"):
        attribution_graph(spliced, PROMPT)


@pytest.mark.parametrize(
    ("bias", "told"), [(-1e6, "no active"), (float("nan"), "logits that are NaN")]
)
def test_silent_or_broken_transcoders_are_told(bias: float, told: str) -> None:
    model = HOST.build()
    transcoders = Kind("relu").build(model)
    with splice(model, transcoders, error="drop") as spliced:
        for layer in transcoders:
            transcoders[layer].b_enc.fill_(bias)
        with pytest.raises(SpliceError, match=told):
            attribution_graph(spliced, PROMPT)
