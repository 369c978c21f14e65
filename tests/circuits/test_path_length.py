"""The mean number of edges of ways against the powers of the shares."""

import torch

from tests.circuits.test_graph import CLT, KIND, PROMPT, matrix, spliced_with
from tl_transcoders.circuits.graphs import attribution_graph


def test_the_length_of_ways_is_that_of_the_powers() -> None:
    for kind in (KIND, CLT):
        with spliced_with(kind) as spliced:
            graph = attribution_graph(spliced, PROMPT)
        dense = matrix(graph).abs()
        share = dense / dense.sum(1, keepdim=True).clamp(min=1e-30)
        embeds, passing = graph.nodes.is_a("embed"), graph.weight
        reached = edges = 0.0
        for k in range(1, 2 * graph.n_layers + 2):
            passing = passing @ share
            reached, edges = (
                reached + float(passing[embeds].sum()),
                edges + k * float(passing[embeds].sum()),
            )
        assert not passing.any()
        assert abs(graph.path_length - edges / reached) < 1e-9
        assert graph.path_length > 1


def test_a_way_of_one_edge_has_length_one() -> None:
    with spliced_with() as spliced:
        graph = attribution_graph(spliced, PROMPT)
    outcomes = graph.weight > 0
    direct = graph.prune(node=1e-9, edge=1.0)
    assert int(direct.nodes.is_a("feature").sum()) == 0
    assert direct.path_length == 1.0
    assert torch.equal(direct.weight[direct.weight > 0], graph.weight[outcomes])
