"""Graphs of SmolLM2-135M and Gemma-3-270M: live removals are interventions, paths sum, a page is written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.real_models import gemma3, load_bridge, smollm2
from tests.cases import Kind
from tests.real.test_splice import small
from tl_transcoders.circuits.edits import Scale
from tl_transcoders.circuits.graphs import Difference, Graph, attribution_graph
from tl_transcoders.circuits.interventions import intervene
from tl_transcoders.circuits.nodes import Feature
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.real]
KIND = Kind("skip", TopK(5), skip=True, layers=(3, 9))
TEXT = "The capital of France is"


@pytest.fixture(scope="module", params=[smollm2, gemma3], ids=["smollm2", "gemma3"])
def traced(request: pytest.FixtureRequest) -> Iterator[tuple[Spliced, Graph]]:
    model = load_bridge(request.param())
    with splice(model, small(KIND.build(model)), error="keep") as spliced:
        yield spliced, attribution_graph(spliced, TEXT, targets=[(" Paris", " London")])


def test_live_removals_are_interventions(traced: tuple[Spliced, Graph]) -> None:
    spliced, graph = traced
    found = graph.select(lambda node: isinstance(node, Feature | Difference)).validate(6)
    (outcome,) = graph.outcomes
    assert isinstance(outcome, Difference)
    for i, node in enumerate(found.removed):
        edits: Any = {node: Scale(0.0)}
        done = intervene(spliced, TEXT, edits)
        change = (done.logits - done.base)[0, -1].float()
        expected = float(change[outcome.good] - change[outcome.bad])
        assert float(found.live[i, 0]) == pytest.approx(expected, abs=2e-3)
    assert graph.validate(6).gap < 1e-4


def test_paths_sum_to_total_effects(traced: tuple[Spliced, Graph], tmp_path: Path) -> None:
    _, graph = traced
    (outcome,) = graph.outcomes
    total = graph.total_effects()[:, 0]
    source = int((total.abs() * graph.nodes.is_a("feature") * (graph.nodes.layer == 3)).argmax())
    paths = graph.paths(graph.nodes[source], outcome, k=1000, by="effect")
    assert sum(path.strength for path in paths) == pytest.approx(float(total[source]), rel=1e-4)
    pruned = graph.prune()
    assert graph.subgraph_scores(graph).replacement == pytest.approx(graph.replacement_score)
    assert 0 < graph.subgraph_scores(pruned).replacement < 1
    pruned.save_html(tmp_path / "page.html")
    assert "Paris" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not torch.isnan(pruned.influence()).any()
