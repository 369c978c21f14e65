"""What the weights connect, on SmolLM2-135M: dense products, steps that sum, ways that are terms of the graph."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from examples.real_models import load_bridge, smollm2
from tests.cases import Kind
from tests.circuits.dense_weights import decoders, encoders, ov
from tests.real.test_splice import small
from tl_transcoders.circuits.graphs import attribution_graph
from tl_transcoders.circuits.nodes import Feature, Head
from tl_transcoders.circuits.weights import (
    Features,
    connections,
    contributions,
    greedy_paths,
    mean_connections,
)
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.splice.trace.run import Run, capture
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.real]
KIND = Kind("skip", TopK(5), skip=True, layers=(3, 4, 9))
PROMPT = "The capital of France is"


@dataclass(frozen=True)
class Case:
    """A spliced model and a run of it."""

    spliced: Spliced
    run: Run


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    model = load_bridge(smollm2())
    with splice(model, small(KIND.build(model)), error="keep") as spliced:
        yield Case(spliced, capture(spliced, model.to_tokens(PROMPT)))


def test_connections_are_dense_products(case: Case) -> None:
    head, spliced = Head(4, 2), case.spliced
    D, E = decoders(spliced, 3, 4), encoders(spliced, 9)
    for via, between in (("residual", torch.eye(len(E)).double()), (head, ov(spliced, head))):
        expected = D @ between @ E
        found = connections(spliced, source=Features(3), target=Features(9), k=10, via=via)
        best = expected.flatten().abs().topk(10).values
        torch.testing.assert_close(found.value.abs().double(), best, rtol=1e-4, atol=0)
        torch.testing.assert_close(
            found.value.double(), expected[found.source, found.target], rtol=1e-4, atol=0
        )


def test_an_edge_of_the_graph_is_the_stream_and_one_head_each(case: Case) -> None:
    features = case.run.values["features", 4]
    last = case.run.shape[1] - 1
    target = Feature(4, int(features.indices[features.rows() == last][0]), last)
    graph = attribution_graph(case.spliced, case.run, targets=[target])
    found: dict[object, float] = {}
    for via in ("residual", *(Head(4, head) for head in range(9))):
        for source, _, value in contributions(
            case.spliced, case.run, source=Features(3), target=target, via=via, k=10_000
        ):
            found[source] = found.get(source, 0.0) + value
    size = float(graph.effect.abs().max())
    into = graph.top(100_000, target=target)
    edges = {s: value for s, _, value in into if isinstance(s, Feature) and s.layer == 3}
    assert edges
    for source in edges.keys() | found.keys():
        assert found.get(source, 0.0) == pytest.approx(edges.get(source, 0.0), abs=1e-5 * size)


def test_steps_of_paths_sum(case: Case) -> None:
    paths = greedy_paths(case.spliced, case.run, target=" Paris", depth=3, branches=8)
    assert paths.gap < 1e-5
    assert len(paths.levels[3]) == 8


def test_means_of_one_prompt_are_its_contributions(case: Case) -> None:
    last = case.run.shape[1] - 1
    features = case.run.values["features", 9]
    index = int(features.indices[features.rows() == last][0])
    mean = mean_connections(
        case.spliced,
        case.run.tokens,
        source=Features(3),
        target=Feature(9, index),
        via=Head(9, 1),
        k=50,
    )
    sums: dict[int, float] = {}
    for pos in range(last + 1):
        found = contributions(
            case.spliced,
            case.run,
            source=Features(3),
            target=Feature(9, index, pos),
            via=Head(9, 1),
            k=1000,
        )
        for source, _, value in found:
            assert isinstance(source, Feature)
            sums[source.index] = sums.get(source.index, 0.0) + value
    size = max(map(abs, sums.values()))
    for source, _, value in mean:
        assert isinstance(source, Feature)
        assert value * mean.n_tokens == pytest.approx(sums[source.index], abs=1e-4 * size)
