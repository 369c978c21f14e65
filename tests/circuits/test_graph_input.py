"""What is asked of a graph wrongly is told; nodes may be named by their texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.circuits.test_graph import PROMPT, spliced_with
from tl_transcoders.circuits.graphs import (
    Graph,
    attribution_graph,
    attribution_graphs,
    compare,
    merge,
)
from tl_transcoders.circuits.nodes import Feature
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
