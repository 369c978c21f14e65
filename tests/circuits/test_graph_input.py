"""What is asked of a graph wrongly is told; nodes may be named by their texts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.cases import Kind
from tests.circuits.test_graph import PROMPT, spliced_with
from tl_transcoders.circuits.attention import head_loadings, with_heads
from tl_transcoders.circuits.graphs import (
    Bias,
    Difference,
    Graph,
    Token,
    attribution_graph,
    attribution_graphs,
    compare,
    merge,
)
from tl_transcoders.circuits.graphs.nodes import NodeTable, parse, write
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, Mlp
from tl_transcoders.circuits.weights import HeadMap
from tl_transcoders.errors import ConfigError, SpliceError, TranscoderFormatError


@pytest.fixture(scope="module")
def graph() -> Graph:
    with spliced_with() as spliced:
        return attribution_graph(spliced, PROMPT)


ASKED: dict[str, tuple[Callable[[Graph], Any], str]] = {
    "top": (lambda graph: graph.top(-1), "1 or more"),
    "target": (lambda graph: graph.top(3, target=("f0.1", 2)), "a node of a graph"),
    "no such text": (lambda graph: graph.top(3, target="f99.1@2"), "which is no node of it"),
    "select": (lambda graph: graph.select("f99.1@2"), "which is no node of it"),
    "prune": (lambda graph: graph.prune(node="much"), "a share"),
    "validate": (lambda graph: graph.validate(0), "1 or more"),
    "merge": (lambda _: merge([5]), "graphs"),
    "merge none": (lambda _: merge([]), "no graph"),
    "compare": (lambda graph: compare(graph, None), "graphs"),
    "save": (lambda graph: graph.save("no/such/folder/graph.safetensors"), "a folder that exists"),
    "compared top": (lambda graph: compare(graph, graph).top(-1), "1 or more"),
    "paths": (lambda graph: graph.paths("embed@1", "embed@2", k=0), "1 or more"),
    "select none": (lambda graph: graph.select(None), "got a NoneType"),
    "select a graph": (lambda graph: graph.select(graph), "got a Graph"),
    "merged top": (lambda graph: merge([graph]).top(-1), "1 or more"),
    "merged least": (lambda graph: merge([graph]).top(1, least=0), "1 or more"),
    "heads top": (lambda _: HeadMap(torch.ones(2, 3)).top(-1), "1 or more"),
    "groups top": (lambda graph: graph.group({}).top(0), "1 or more"),
    "page": (lambda graph: graph.save_html("no/such/folder/graph.html"), "a folder that exists"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ASKED)
def test_a_wrong_question_is_told(graph: Graph, name: str) -> None:
    ask, told = ASKED[name]
    with pytest.raises(ConfigError, match=told):
        ask(graph)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("targets", ["42", 5], ids=repr)
def test_targets_are_a_list(targets: Any) -> None:
    with spliced_with() as spliced, pytest.raises(ConfigError, match="Put it into a list"):
        attribution_graph(spliced, PROMPT, targets=targets)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("prompts", ["a text", []], ids=repr)
def test_prompts_are_a_list(prompts: Any) -> None:
    with spliced_with() as spliced, pytest.raises(ConfigError, match="one prompt or more"):
        attribution_graphs(spliced, prompts)


def test_texts_name_nodes(graph: Graph) -> None:
    node = next(node for node in graph.nodes if isinstance(node, Feature))
    text = f"f{node.layer}.{node.index}@{node.pos}"
    assert graph.number(text) == graph.number(node)
    assert list(graph.select(text).nodes) == list(graph.select([node]).nodes) == [node]


def test_every_node_is_what_its_text_says(graph: Graph) -> None:
    nodes = [*graph.nodes, Difference(3, 4, 2), Head(1, 0, None, 3), Mlp(2, 1)]
    assert {type(node) for node in nodes} == {
        Embed,
        Feature,
        Error,
        Bias,
        Token,
        Difference,
        Head,
        Mlp,
    }
    for node in nodes:
        assert parse(write(node)) == node
    for node in graph.nodes:
        assert graph.number(write(node)) == graph.number(node)
    for text in ("b", "b-1", "token1-", "token1@", "a1.h0<q>", "logits", f"f1.{10**20}"):
        with pytest.raises(ConfigError):
            graph.number(text)


def test_positions_count_from_the_end_too(graph: Graph) -> None:
    last = len(graph.tokens) - 1
    token = next(node.token for node in graph.outcomes if isinstance(node, Token))
    assert (
        list(graph.select([Embed(-1)]).nodes)
        == list(graph.select(["embed@-1"]).nodes)
        == [Embed(last)]
    )
    assert graph.number(Embed(-1)) == graph.number(Embed(last))
    assert (
        graph.number(Token(token))
        == graph.number(f"token{token}")
        == graph.number(Token(token, last))
    )
    assert len(graph.select([Embed()]).nodes) == len(graph.tokens)
    for pos in (last + 1, -last - 2):
        with pytest.raises(ConfigError, match=f"a position of the prompt, 0 to {last}"):
            graph.select([Embed(pos)])


WRONG_TARGETS: dict[str, tuple[Callable[[], Any], str]] = {
    "no position": (lambda: Token(3, cast("Any", None)), "position None"),
    "half a token": (lambda: Token(cast("Any", 3.5), 1), "token 3.5"),
    "true token": (lambda: Token(True, 1), "token True"),
    "true in a pair": (lambda: (True, 4), "token True"),
    "half an index": (lambda: Feature(2, cast("Any", 3.7), -1), "a token"),
    "half a position": (lambda: Feature(2, 3, cast("Any", 1.5)), "a token"),
    "true layer": (lambda: Feature(True, 3, -1), "a feature of layers"),
    "unknown word": (lambda: "nobody", "which the tokenizer does not know"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", WRONG_TARGETS)
def test_targets_that_cannot_be_are_told(name: str) -> None:
    target, told = WRONG_TARGETS[name]
    with spliced_with() as spliced, pytest.raises(ConfigError, match=told):
        attribution_graph(spliced, PROMPT, targets=[target()])


@pytest.mark.parametrize("index", [0, 30])
def test_a_silent_feature_of_any_layer_is_a_target(index: int) -> None:
    with spliced_with() as spliced:
        for layer in range(3):
            feature = Feature(layer, index, -1)
            graph = attribution_graph(spliced, PROMPT, targets=[feature, Token(3)])
            same = attribution_graph(spliced, PROMPT, targets=[f"f{layer}.{index}@-1", Token(3)])
            assert graph.gap < 1e-5
            assert same.effect.equal(graph.effect)
            assert graph.number(feature) == graph.number(graph.outcomes[0])
            budget = attribution_graph(spliced, PROMPT, targets=[feature], max_features=1)
            assert float(budget.value[budget.number(feature)]) == pytest.approx(
                float(graph.value[graph.number(feature)]), abs=1e-5
            )


@pytest.mark.usefixtures("unchecked")
def test_groups_have_names_of_their_own(graph: Graph) -> None:
    wrong: Any = [Embed(2)]
    for groups, told in (({"embed@1": [Embed(2)]}, "named like nodes"), (wrong, "got a list")):
        with pytest.raises(ConfigError, match=told):
            graph.group(groups)
    assert "embed@2" in graph.group({"embed@2": [Embed(2)]}).names


@pytest.mark.usefixtures("unchecked")
def test_a_foreign_file_stays_and_folders_are_told(graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "g.part").write_text("mine")
    graph.save(tmp_path / "g")
    assert (tmp_path / "g.part").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"g", "g.part"}
    for save in (graph.save, graph.save_html):
        for path in (tmp_path, ""):
            with pytest.raises(ConfigError, match="expected a file"):
                save(path)


@pytest.mark.usefixtures("unchecked")
def test_heads_are_asked_of_one_prompt(graph: Graph) -> None:
    for other, told in ((merge([graph, graph]), "MergedGraph"), (graph.group({}), "SuperGraph")):
        wrong: Any = other
        with pytest.raises(ConfigError, match=f"with_heads: got a {told}"):
            with_heads(wrong, 2)


def test_a_graph_can_give_up_its_run(graph: Graph) -> None:
    bare = graph.without_run()
    assert bare.run is None
    assert bare.effect is graph.effect
    assert bare.without_run() is bare
    for name, ask in NEEDS_RUN.items():
        with pytest.raises(ConfigError, match=f"^{name}.*without_run gave up"):
            ask(bare)


NEEDS_RUN: dict[str, Callable[[Graph], Any]] = {
    "Graph.validate": Graph.validate,
    "with_heads": lambda graph: with_heads(graph, [Head(0, 0)]),
    "head_loadings": lambda graph: head_loadings(
        graph, Embed(0), target=graph.outcomes[0], layer=1
    ),
}


@pytest.mark.parametrize("name", NEEDS_RUN)
def test_what_needs_a_run_says_why_there_is_none(graph: Graph, name: str, tmp_path: Path) -> None:
    graph.save(tmp_path / "graph.safetensors")
    loaded = Graph.load(tmp_path / "graph.safetensors")
    with spliced_with(Kind("one", layers=(1,))) as spliced:
        linear = attribution_graph(spliced, PROMPT, unspliced="linear")
    for bare, why in ((loaded, "from a file"), (linear.without_run(), "linear MLPs")):
        with pytest.raises(ConfigError, match=f"^{name}.*{why}"):
            NEEDS_RUN[name](bare)


def test_a_page_holds_any_words(graph: Graph, tmp_path: Path) -> None:
    words = ("\ud800", *graph.words[1:])
    replace(graph, words=words).save_html(tmp_path / "page.html")
    assert "\\ud800" in (tmp_path / "page.html").read_text(encoding="utf-8")


def _changed(graph: Graph, **tensors: Callable[[Tensor], Tensor]) -> Graph:
    changed = {name: change(getattr(graph, name).clone()) for name, change in tensors.items()}
    return replace(graph, **changed)


def _filled(index: Any, value: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.index_put((torch.tensor(index),), torch.tensor(value).to(tensor))


def _rows(column: int, value: int) -> Callable[[Graph], Graph]:
    def change(graph: Graph) -> Graph:
        rows = graph.nodes.rows.clone()
        rows[graph.number(next(n for n in graph.nodes if isinstance(n, Feature))), column] = value
        return replace(graph, nodes=NodeTable(rows))

    return change


DAMAGED: dict[str, tuple[Callable[[Graph], Graph], str]] = {
    "kind": (_rows(0, 99), "unknown kinds"),
    "layer": (_rows(1, 3), "layers that are not there"),
    "negative layer": (_rows(1, -1), "layers that are not there"),
    "position": (_rows(2, 99), "positions that are not there"),
    "no position": (_rows(2, -1), "positions that are not there"),
    "index": (_rows(3, -7), "negative index"),
    "other": (_rows(4, 1), "an index of nodes that have none"),
    "repeated": (
        lambda g: replace(
            g, nodes=NodeTable(g.nodes.rows.index_copy(0, torch.tensor([1]), g.nodes.rows[:1]))
        ),
        "nodes that repeat",
    ),
    "tokens": (lambda g: _changed(g, tokens=_filled([0], -1)), "tokens below 0"),
    "weight": (lambda g: _changed(g, weight=_filled([0], -0.5)), "weight below 0"),
    "eight bits": (
        lambda g: _changed(g, effect=lambda e: e.to(torch.float8_e4m3fn)),
        "effect of torch.float8",
    ),
    "no layers": (lambda graph: replace(graph, n_layers=0), "a header of another shape"),
    "vocabulary": (lambda g: replace(g, vocabulary={"9" * 5000: "x"}), "a header of another shape"),
    "effect": (lambda g: _changed(g, effect=_filled([0], float("nan"))), "effect with something"),
    "value": (lambda g: _changed(g, value=_filled([0], float("inf"))), "value with something"),
    "scalar": (lambda g: _changed(g, effect=lambda _: torch.tensor(1.0)), "of shape"),
    "turned": (lambda g: replace(g, source=g.target, target=g.source), "do not go up"),
    "loop": (lambda g: replace(g, source=g.target.clone()), "do not go up"),
    "elsewhere": (lambda g: _changed(g, source=_filled([0], 10**6)), "nodes that are not there"),
    "bytes": (lambda g: _changed(g, target=lambda t: t.to(torch.uint8)), "target of torch.uint8"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_says_what_cannot_be_is_refused(
    graph: Graph, name: str, tmp_path: Path
) -> None:
    change, told = DAMAGED[name]
    path = tmp_path / "graph.safetensors"
    graph.save(path)
    assert Graph.load(path).nodes.rows.equal(graph.nodes.rows)
    change(graph).save(path)
    with pytest.raises(TranscoderFormatError, match=told):
        Graph.load(path)


def test_a_folder_is_no_graph(tmp_path: Path) -> None:
    with pytest.raises(TranscoderFormatError):
        Graph.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        Graph.load(tmp_path / "missing")


def test_nan_weights_are_told() -> None:
    with spliced_with() as spliced:
        spliced.transcoders[1].W_dec.data[:] = float("nan")
        with pytest.raises(SpliceError, match="NaN"):
            attribution_graph(spliced, PROMPT)
