"""Graphs equal to those that circuit-tracer 0.5.0 recorded.

The peer has no node for features and errors at position 0 (its skip connections work there all the same), and none for
biases. Here features and errors at position 0 are nodes like others, which the comparison leaves out, and `Bias` has
no influence.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.cases import tokenizer
from tests.circuits.golden.models import (
    ARCHITECTURES,
    KINDS,
    N_LAYERS,
    TOKENS,
    hf_model,
    write_transcoders,
)
from tl_transcoders.circuits.graphs import Graph, Token, attribution_graph
from tl_transcoders.circuits.nodes import Embed, Error, Feature
from tl_transcoders.hub import load
from tl_transcoders.splice import splice

GOLDEN = Path(__file__).parent / "golden" / "circuit_tracer.safetensors"
LAST = len(TOKENS) - 1
every_case = pytest.mark.parametrize(
    ("architecture", "kind"), [(a, k) for a in ARCHITECTURES for k in KINDS]
)


@cache
def model(architecture: str, *, broken: bool = False) -> Any:
    hf = hf_model(architecture)
    if broken:
        with torch.no_grad():
            next(p for name, p in hf.named_parameters() if "attn" in name)[0] += 0.01
    return TransformerBridge.boot_transformers(
        f"tiny/{architecture}", hf_model=hf, tokenizer=tokenizer(), device="cpu"
    )


def ours(architecture: str, folder: Path, kind: str, *, broken: bool = False) -> Graph:
    """Our graph of the same model, without what the peer has no node for."""
    write_transcoders(folder, kind)
    host = model(architecture, broken=broken)
    with splice(host, load(folder), error="keep") as spliced:
        graph = attribution_graph(spliced, torch.tensor([TOKENS]))
    return graph.select(lambda node: not (isinstance(node, Feature | Error) and node.pos == 0))


def peers(architecture: str, kind: str) -> dict[str, Tensor]:
    name = f"{architecture}-{kind}."
    return {k.removeprefix(name): v for k, v in load_file(GOLDEN).items() if k.startswith(name)}


def places(graph: Graph, golden: dict[str, Tensor]) -> tuple[list[int], Tensor]:
    """Which of the peer's nodes, in its order, each of our nodes is, and which are no biases."""
    errors = [Error(layer, pos) for layer in range(N_LAYERS) for pos in range(LAST + 1)]
    theirs = [
        *(Feature(layer, index, pos) for layer, pos, index in golden["features"].tolist()),
        *errors,
        *map(Embed, range(LAST + 1)),
        *(Token(token, LAST) for token in golden["logits"].tolist()),
    ]
    place = {node: i for i, node in enumerate(theirs)}
    real = ~graph.nodes.is_a("bias")
    ours = graph.nodes.take(real)
    assert set(theirs) - set(ours) == {Error(layer, 0) for layer in range(N_LAYERS)}
    assert set(ours) <= set(theirs)
    return [place[node] for node in ours], real


def matrix(graph: Graph, place: list[int], real: Tensor, n: int) -> Tensor:
    """The adjacency in the peer's order."""
    where = torch.full((len(graph.nodes),), -1)
    where[real] = torch.tensor(place)
    flows = real[graph.source.long()]
    found = torch.zeros(n, n)
    ends = where[graph.target[flows].long()], where[graph.source[flows].long()]
    found[ends] = graph.effect[flows].float()
    return found


def assert_equal(graph: Graph, golden: dict[str, Tensor]) -> None:
    """Edges to 1e-5 of the largest; activations, probabilities, influence and scores; and the pruned sets."""
    place, real = places(graph, golden)
    n, n_features = golden["rows"].shape[1], len(golden["features"])
    rows = [*range(n_features), *range(n - len(golden["logits"]), n)]
    largest = float(golden["rows"].abs().max())
    found = matrix(graph, place, real, n)[rows]
    torch.testing.assert_close(found, golden["rows"], rtol=0, atol=1e-5 * largest)
    for name, values, theirs in (
        ("influence", graph.influence(), golden["influence"]),
        ("activation", graph.activation, torch.zeros(n)),
        ("weight", graph.weight, torch.zeros(n)),
    ):
        expected = theirs.clone()
        if name == "activation":
            expected[:n_features] = golden["activation"]
        if name == "weight":
            expected[-len(golden["logits"]) :] = golden["probability"]
        torch.testing.assert_close(values[real].float(), expected[place], rtol=1e-4, atol=1e-5)
    scores = torch.tensor([graph.replacement_score, graph.completeness_score])
    torch.testing.assert_close(scores, golden["scores"], rtol=1e-5, atol=1e-6)
    pruned = graph.prune(node=0.8, edge=0.98)
    place, real = places_of_pruned(pruned, graph, place)
    assert sorted(place) == golden["nodes"].nonzero()[:, 0].tolist()
    kept = matrix(pruned, place, real, n)[rows] != 0
    assert torch.equal(kept, golden["edges"])


def places_of_pruned(pruned: Graph, graph: Graph, place: list[int]) -> tuple[list[int], Tensor]:
    ours = [
        node for node in graph.nodes if node in set(graph.nodes.take(~graph.nodes.is_a("bias")))
    ]
    of = dict(zip(ours, place, strict=True))
    real = ~pruned.nodes.is_a("bias")
    return [of[node] for node in pruned.nodes.take(real)], real


@every_case
def test_a_graph_is_the_peers(architecture: str, kind: str, tmp_path: Path) -> None:
    assert_equal(ours(architecture, tmp_path, kind), peers(architecture, kind))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_broken_weight_is_noticed(architecture: str, tmp_path: Path) -> None:
    graph = ours(architecture, tmp_path, "skip", broken=True)
    with pytest.raises(AssertionError):
        assert_equal(graph, peers(architecture, "skip"))


def test_the_recordings_are_small() -> None:
    recordings = (GOLDEN, GOLDEN.with_suffix(".pt"))
    assert sum(path.stat().st_size for path in recordings) < 300_000
