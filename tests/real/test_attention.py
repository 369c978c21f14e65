"""Attention explained on SmolLM2-135M: an induction head looks for what a previous-token head wrote."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from examples.real_models import load_bridge, smollm2
from tests.cases import Kind
from tests.real.test_splice import small
from tl_transcoders.circuits.attention import (
    attention_row,
    head_path,
    head_paths,
    loading_table,
    qk_attribution,
    with_heads,
)
from tl_transcoders.circuits.graphs import Graph, attribution_graph
from tl_transcoders.circuits.nodes import Head
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.splice.trace.run import Run, capture
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.real]
KIND = Kind("skip", TopK(5), skip=True, layers=(3, 9))
PROMPT = "Mr and Mrs Dursley of number four were proud. Mr and Mrs Durs"


@dataclass(frozen=True)
class Case:
    """A run that ends as it was once before, the position after that, and the head that attends there most."""

    spliced: Spliced
    run: Run
    graph: Graph
    after: int
    head: Head


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    model = load_bridge(smollm2())
    torch.manual_seed(0)
    with splice(model, small(KIND.build(model)), error="keep") as spliced:
        run = capture(spliced, model.to_tokens(PROMPT))
        ids: list[int] = run.tokens[0].tolist()
        after = ids.index(ids[-1]) + 1
        pattern = torch.stack([run.values["pattern", i][0, :, -1, after] for i in range(30)])
        pattern[:9] = 0
        layer, head = divmod(int(pattern.argmax()), pattern.shape[1])
        assert pattern.max() > 0.9
        graph = attribution_graph(spliced, run, targets=[ids[after]])
        yield Case(spliced, run, graph, after, Head(layer, head))


def edges_into(graph: Graph, target: object) -> Tensor:
    dense = torch.zeros(len(graph.nodes))
    here = graph.target == list(graph.nodes).index(target)
    dense[graph.source[here].long()] = graph.effect[here]
    return dense


def test_the_induction_head_matches_what_a_previous_token_head_wrote(case: Case) -> None:
    found = qk_attribution(case.spliced, case.run, head=case.head, query=-1, key=case.after)
    scale = float(found.terms.abs().sum())
    name = f"blocks.{case.head.layer}.attn.hook_attn_scores"
    with torch.no_grad():
        cache = case.spliced.model.run_with_cache(case.run.tokens)[1]
    host = float(cache[name][0, case.head.head, -1, case.after])
    assert found.gap < 1e-6
    assert float(found.terms.double().sum()) == pytest.approx(host, rel=1e-5, abs=1e-6 * scale)
    best = found.key_sources[int(found.by_key_source.argmax())]
    assert isinstance(best, Head)
    looking = case.run.values["pattern", best.layer][0, best.head, case.after]
    assert int(looking.argmax()) == case.after - 1
    assert looking.max() > 0.5


def test_its_row_ranks_that_key_first(case: Case) -> None:
    target = int(case.run.tokens[0, case.after])
    row = attention_row(case.spliced, case.run, head=case.head, query=-1, target=target)
    torch.testing.assert_close(row.pattern, row.scores.softmax(0), atol=1e-5, rtol=1e-3)
    best = row.top(1)[0]
    assert best.key == case.after
    assert best.effect == pytest.approx(best.term * float(row.pull[best.key]))


def test_loadings_and_paths_sum_to_their_edges(case: Case) -> None:
    (outcome,) = case.graph.outcomes
    table = loading_table(case.graph, outcome, sources=list(case.graph.nodes)[:40:3])
    everything = edges_into(case.graph, outcome)
    edges = torch.stack([everything[case.graph.number(source)] for source in table.sources])
    size = 1e-5 * float(everything.abs().max())
    torch.testing.assert_close(table.total, edges, atol=size, rtol=0)
    split = table.per_head.sum(2) + table.bypass
    torch.testing.assert_close(split, edges[:, None].expand_as(split), atol=size, rtol=0)
    source, _, _ = table.top(1)[0]
    found = head_paths(case.graph, source, target=outcome, k=3, beam=64)
    assert not found.complete
    for path in found.paths:
        again = head_path(case.graph, source, target=outcome, via=path.heads)
        assert path.effect == pytest.approx(again, rel=1e-3, abs=size)


def test_a_graph_with_heads_sums_and_agrees_with_removal(case: Case) -> None:
    found = with_heads(case.graph, 20)
    assert found.gap < 1e-4
    assert found.validate(6).gap < 1e-3
    assert case.head in {
        Head(node.layer, node.head) for node in found.nodes if isinstance(node, Head)
    }
