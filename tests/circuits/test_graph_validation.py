"""Live validation against the host's own hooks, and total effects against every path."""

from typing import Any

import pytest
import torch

from tests.cases import HOSTS, Host, Kind, case_id, tokens
from tl_transcoders.circuits.edits import Ablate, Scale
from tl_transcoders.circuits.graphs import Difference, Graph, Token, attribution_graph
from tl_transcoders.circuits.graphs.validate import spearman
from tl_transcoders.circuits.interventions import intervene
from tl_transcoders.circuits.nodes import Error, Feature
from tl_transcoders.splice import splice
from tl_transcoders.transcoders import TopK

PROMPT = tokens(1)
SOME = [
    pytest.param(host, marks=pytest.mark.slow) if i else host for i, host in enumerate(HOSTS[::2])
]
LAST = PROMPT.shape[1] - 1


@pytest.mark.parametrize(
    "kind", [Kind("topk-skip", TopK(5), skip=True), Kind("clt", TopK(5), cross_layer=True)], ids=str
)
@pytest.mark.parametrize("host", SOME, ids=case_id)
def test_live_changes_are_those_of_interventions(host: Host, kind: Kind) -> None:
    model = host.build()
    with splice(model, kind.build(model), error="keep") as spliced:
        graph = attribution_graph(spliced, PROMPT, targets=[3, (4, 5)])
        found = graph.validate(1000)
        assert found.gap < 1e-4
        assert list(graph.outcomes) == [Token(3, LAST), Difference(4, 5, LAST)]
        for kinds, edit in ((Feature, Scale(0.0)), (Error, Ablate())):
            chosen = [i for i, node in enumerate(found.removed) if isinstance(node, kinds)][::7]
            assert chosen
            for i in chosen:
                edits: Any = {found.removed[i]: edit}
                done = intervene(spliced, PROMPT, edits)
                change = (done.logits - done.base)[0, -1]
                expected = torch.stack([change[3] - change.mean(), change[4] - change[5]])
                torch.testing.assert_close(found.live[i], expected, atol=2e-5, rtol=1e-3)
    assert -1 <= found.rank_correlation <= 1
    assert -1 <= found.influence_correlation <= 1


def test_total_effects_are_the_sum_over_all_paths(graph: Graph) -> None:
    small = graph.prune(node=0.7, edge=0.95)
    total = small.total_effects()
    (outcomes,) = (small.weight > 0).nonzero(as_tuple=True)
    embeds = small.nodes.is_a("embed").nonzero()[:, 0].tolist()
    features = small.nodes.is_a("feature").nonzero()[:3, 0].tolist()
    for i in [*embeds, *features]:
        for column, outcome in enumerate(outcomes.tolist()):
            paths = small.paths(small.nodes[i], small.nodes[outcome], k=10_000, by="effect")
            expected = float(total[i, column])
            assert sum(path.strength for path in paths) == pytest.approx(expected, abs=1e-9)
    assert total.any()


@pytest.fixture(scope="module")
def graph() -> Graph:
    model = HOSTS[0].build()
    with splice(model, Kind("topk", TopK(5)).build(model), error="keep") as spliced:
        return attribution_graph(spliced, PROMPT, targets=[3, (4, 5)])


def test_total_effects_are_what_removal_does_through_one_layer(graph: Graph) -> None:
    """Features of the last layer have edges to outcomes alone."""
    total = graph.total_effects()
    (outcomes,) = (graph.weight > 0).nonzero(as_tuple=True)
    last = graph.nodes.is_a("feature") & (graph.nodes.layer == graph.n_layers - 1)
    for i in last.nonzero()[:4, 0].tolist():
        for column, outcome in enumerate(outcomes.tolist()):
            edge = (graph.source == i) & (graph.target == outcome)
            assert float(total[i, column]) == pytest.approx(float(graph.effect[edge].sum()))


def test_rank_correlation_by_hand() -> None:
    a = torch.tensor([1.0, 2.0, 2.0, 5.0])
    assert spearman(a, a.exp()) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    # Ranks 1, 2½, 2½, 4 and 2, 1, 3, 4: covariance 3 over √(4.5 · 5).
    assert spearman(a, torch.tensor([2.0, 1.0, 3.0, 9.0])) == pytest.approx(3 / (4.5 * 5) ** 0.5)
    assert spearman(a, torch.ones(4)) != spearman(a, torch.ones(4))
