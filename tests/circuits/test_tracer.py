"""Graphs that share rows, graphs of many prompts, products in low precision, and where pulls and pushes meet."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import HOSTS, Host, Kind, case_id, only_in_the_whole_table, tokens
from tl_transcoders.circuits.graphs import (
    Graph,
    Token,
    Tracer,
    attribution_graph,
    attribution_graphs,
)
from tl_transcoders.circuits.graphs.circuitry import Circuitry
from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.circuits.graphs.rows import Rows
from tl_transcoders.circuits.graphs.sweep import Sweeper
from tl_transcoders.errors import ConfigError, ShapeError
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

pytestmark = only_in_the_whole_table
PROMPT = tokens(1)
SKIP = Kind("topk-skip", TopK(5), skip=True)
CLT = Kind("clt", TopK(5), cross_layer=True)
every_host = pytest.mark.parametrize("host", HOSTS[::3], ids=case_id)


def spliced_with(host: Host = HOSTS[0], kind: Kind = SKIP, **options: Any) -> Spliced:
    model = host.build()
    return splice(model, kind.build(model), **({"error": "keep"} | options))


def matrix(graph: Graph) -> Tensor:
    dense = torch.zeros(len(graph.nodes), len(graph.nodes))
    dense[graph.target.long(), graph.source.long()] = graph.effect
    return dense


def assert_equal(graph: Graph, fresh: Graph, tolerance: float = 1e-6) -> None:
    assert graph.nodes.rows.equal(fresh.nodes.rows)
    size = float(fresh.effect.abs().max())
    torch.testing.assert_close(matrix(graph), matrix(fresh), atol=tolerance * size, rtol=0)
    torch.testing.assert_close(
        graph.left_out, fresh.left_out, atol=10 * tolerance * size, rtol=tolerance
    )


def test_a_longer_budget_computes_what_is_new_alone() -> None:
    with spliced_with() as spliced:
        tracer = Tracer(spliced, PROMPT)
        few = tracer.graph(max_features=6, per_update=3)
        after_few = tracer.rows
        same = tracer.graph(max_features=6, per_update=3)
        assert tracer.rows == after_few == 6 + len(few.outcomes)
        more = tracer.graph(max_features=10, per_update=3)
        assert tracer.rows == after_few + 4
        other = tracer.graph(targets=[(3, 4), few.outcomes[0]], max_features=10_000)
        whole = tracer.graph()
        assert tracer.rows == len(few.outcomes) + 1 + int(whole.nodes.is_a("feature").sum())
        assert_equal(same, few)
        for graph, options in (
            (more, {"max_features": 10, "per_update": 3}),
            (other, {"targets": [(3, 4), few.outcomes[0]]}),
            (whole, {}),
        ):
            assert_equal(graph, attribution_graph(spliced, PROMPT, **options))


def test_a_changed_row_is_noticed() -> None:
    with spliced_with() as spliced:
        graph, fresh = (attribution_graph(spliced, PROMPT) for _ in range(2))
    graph.effect[graph.effect.abs().argmax()] *= 1.001
    with pytest.raises(AssertionError):
        assert_equal(graph, fresh)


@every_host
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_it_does_not_matter_where_pulls_and_pushes_meet(host: Host, cut: int) -> None:
    with spliced_with(host, exclude=[int(PROMPT[0, 0])]) as spliced:
        frame = Frame.of(capture(spliced, PROMPT))
    outcomes = NodeTable.of([Token(3, 6), Token(4, 2)], frame.n_layers)
    found = []
    for at in (0, cut):
        sweeper = Sweeper(Circuitry.of(frame, frame.dtype, "constant"), 1 << 30)
        sweeper.start(at)
        (features,) = sweeper.table.is_a("feature").nonzero(as_tuple=True)
        sweeper.compute(torch.cat([features, sweeper.number(outcomes)]))
        found.append(_dense(sweeper.rows))
    size = float(found[0].abs().max())
    torch.testing.assert_close(found[1], found[0], atol=1e-6 * size, rtol=0)


def _dense(rows: Rows) -> Tensor:
    found = torch.zeros(rows.n_sources, len(rows.done))
    for block in rows.blocks:
        found[block.source[:, None], block.target] += block.scores
    return torch.cat([found, rows.bias])


@pytest.mark.parametrize("kind", [SKIP, CLT], ids=case_id)
def test_products_may_be_in_low_precision(kind: Kind) -> None:
    with spliced_with(kind=kind) as spliced:
        exact = attribution_graph(spliced, PROMPT)
        rough = attribution_graph(spliced, PROMPT, dtype=torch.bfloat16)
        fine = attribution_graph(spliced, PROMPT, dtype=torch.float64)
    assert rough.effect.dtype == torch.float32
    assert_equal(fine, exact, 1e-5)
    assert_equal(rough, exact, 2e-2)
    with pytest.raises(AssertionError):
        assert_equal(rough, exact, 1e-5)


def test_prompts_of_many_lengths_have_a_graph_each() -> None:
    prompts = [PROMPT, tokens(1, pos=4, seed=3)]
    with spliced_with() as spliced:
        graphs = attribution_graphs(spliced, prompts, max_features=5)
        assert [len(graph.tokens) for graph in graphs] == [7, 4]
        for graph, prompt in zip(graphs, prompts, strict=True):
            assert_equal(graph, attribution_graph(spliced, prompt, max_features=5))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "told"),
    [({"dtype": torch.int8}, "int8"), ({"unspliced": "bent"}, "bent"), ({"memory": 0}, "memory")],
    ids=["dtype", "unspliced", "memory"],
)
def test_wrong_options_are_told(options: dict[str, Any], told: str) -> None:
    with spliced_with() as spliced, pytest.raises(ConfigError, match=told):
        Tracer(spliced, PROMPT, **options)


@pytest.mark.usefixtures("unchecked")
def test_wrong_prompts_are_told() -> None:
    with spliced_with() as spliced, pytest.raises(ShapeError, match="one token"):
        attribution_graphs(spliced, [PROMPT, PROMPT[:, :1]], max_features=5)
