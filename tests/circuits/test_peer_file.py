"""Graphs in circuit-tracer's own files: one that the peer wrote, and files that are none."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.circuits.golden.models import TOKENS
from tests.circuits.test_peer import GOLDEN, matrix, ours, peers, places
from tests.hub.hostile.pickles import FILE, call, text, write
from tests.hub.hostile.watch import watched
from tl_transcoders.circuits.graphs import Graph
from tl_transcoders.circuits.nodes import Error
from tl_transcoders.errors import TranscoderFormatError

PATH = GOLDEN.with_suffix(".pt")
SAVED = ("llama", "jumprelu")


def read() -> dict[str, Any]:
    """The fixture's plain part, for files that differ in one thing."""
    graph = Graph.from_circuit_tracer(PATH)
    return {
        "active_features": graph.nodes.take(graph.nodes.is_a("feature")).rows[:, 1:4],
        "adjacency_matrix": torch.zeros(len(graph.nodes), len(graph.nodes)),
        "selected_features": torch.arange(int(graph.nodes.is_a("feature").sum())),
        "activation_values": torch.ones(int(graph.nodes.is_a("feature").sum())),
        "logit_targets": torch.tensor([node.token for node in graph.outcomes]),
        "logit_probabilities": graph.weight[graph.weight > 0].float(),
        "input_tokens": graph.tokens,
    }


def test_a_graph_of_the_peer_prunes_to_what_the_peer_prunes_it_to(tmp_path: Path) -> None:
    graph, golden = Graph.from_circuit_tracer(PATH, words=[f"<{t}>" for t in TOKENS]), peers(*SAVED)
    n_features, n = len(golden["features"]), golden["rows"].shape[1]
    rows = [*range(n_features), *range(n - len(golden["logits"]), n)]
    dense = torch.zeros(n, n)
    dense[graph.target.long(), graph.source.long()] = graph.effect
    torch.testing.assert_close(dense[rows], golden["rows"], rtol=0, atol=0)
    scores = torch.tensor([graph.replacement_score, graph.completeness_score])
    torch.testing.assert_close(scores, golden["scores"], rtol=1e-5, atol=1e-6)
    pruned = graph.prune(node=0.8, edge=0.98)
    kept = sorted(graph.number(node) for node in pruned.nodes)
    assert kept == golden["nodes"].nonzero()[:, 0].tolist()
    assert len(pruned.effect) == int(golden["edges"].sum())
    assert graph.words[1] == f"<{TOKENS[1]}>"
    graph.save(tmp_path / "graph.safetensors")
    assert Graph.load(tmp_path / "graph.safetensors").effect.equal(graph.effect)


def test_it_is_the_graph_made_here(tmp_path: Path) -> None:
    theirs, here = Graph.from_circuit_tracer(PATH), ours(*SAVED[:1], tmp_path, *SAVED[1:])
    there = theirs.select(lambda node: not (isinstance(node, Error) and node.pos == 0))
    place, real = places(here, peers(*SAVED))
    found = matrix(here, place, real, len(theirs.nodes))
    dense = torch.zeros_like(found)
    dense[theirs.target.long(), theirs.source.long()] = theirs.effect
    torch.testing.assert_close(found, dense, rtol=0, atol=1e-5 * float(dense.abs().max()))
    assert set(there.nodes) == set(here.nodes.take(~here.nodes.is_a("bias")))


def test_a_file_that_is_cut_short_or_something_else_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "graph.pt", PATH.read_bytes()
    for n in (0, 7, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(TranscoderFormatError):
            Graph.from_circuit_tracer(path)
    torch.save([1, 2], path)
    with pytest.raises(TranscoderFormatError, match="no tensor adjacency_matrix"):
        Graph.from_circuit_tracer(path)
    torch.save(read(), path)
    with pytest.raises(TranscoderFormatError, match="n_layers"):
        Graph.from_circuit_tracer(path)
    with pytest.raises(TranscoderFormatError, match="2 words"):
        Graph.from_circuit_tracer(PATH, words=["a", "b"])


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", call("os", "system", text("touch canary")))
    told = "a call of 'os' 'system'"
    with pytest.raises(TranscoderFormatError, match=told):  # the first imports what reading needs
        Graph.from_circuit_tracer(folder / FILE)
    with watched(folder), pytest.raises(TranscoderFormatError, match=told):
        Graph.from_circuit_tracer(folder / FILE)


class Config:
    """As the peer's, an object of a class that nobody looks at."""

    def __init__(self, n_layers: Any) -> None:
        self.n_layers = n_layers


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"cfg": Config("3")}, "no number of layers"),
    ({"cfg": Config(2)}, "adjacency_matrix"),
    ({"cfg": Config(10**12)}, "adjacency_matrix"),
    ({"cfg": Config(True)}, "no number of layers"),
    ({"logit_targets": []}, "logit_targets"),
    ({"logit_targets": torch.tensor([1, 1])}, "logit_targets"),
    ({"activation_values": torch.ones(3)}, "activation_values"),
    ({"input_tokens": torch.ones(6)}, "input_tokens"),
    ({"selected_features": torch.full((8,), 10**6)}, "adjacency_matrix"),
    ({"active_features": "x"}, "no tensor active_features"),
    ({"active_features": torch.tensor(3)}, "no tensor active_features"),
    ({"activation_values": torch.full((56,), float("nan"))}, "activation_values"),
    (
        {"input_tokens": torch.empty(0, dtype=torch.long), "adjacency_matrix": torch.zeros(50, 50)},
        "no token",
    ),
    ({"input_tokens": torch.full((6,), -1)}, "input_tokens"),
    ({"selected_features": torch.ones(40, dtype=torch.bool)}, "selected_features"),
    ({"selected_features": torch.zeros(40, dtype=torch.uint8)}, "selected_features"),
    ({"selected_features": torch.zeros(40, dtype=torch.long)}, "that repeat"),
    ({"active_features": torch.tensor([[0, 0, -1]] * 40)}, "indices of features"),
    ({"logit_probabilities": torch.full((10,), 2.0)}, "logit_probabilities"),
    ({"logit_targets": [("a", 2**63)] * 10}, "logit_targets"),
    ({"adjacency_matrix": torch.ones(74, 74)}, "do not go up"),
]


@pytest.mark.parametrize(("change", "told"), WRONG, ids=range(len(WRONG)))
def test_parts_that_do_not_fit_are_told(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.pt"
    torch.save(read() | {"cfg": Config(3)}, path)
    assert len(Graph.from_circuit_tracer(path).effect) == 0
    torch.save(read() | {"cfg": Config(3)} | change, path)
    with pytest.raises(TranscoderFormatError, match=told):
        Graph.from_circuit_tracer(path)
    indices = read()["selected_features"] + 1
    torch.save(read() | {"cfg": Config(3), "selected_features": indices}, path)
    with pytest.raises(TranscoderFormatError, match="not there"):
        Graph.from_circuit_tracer(path)
