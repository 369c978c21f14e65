"""What the weights connect in hand-built models: closed forms and dense products in float64; and low precision."""

import pytest
import torch

from tests.cases import HOSTS, Kind, case_id, tokens
from tests.circuits.dense_weights import decoders, encoders, ov
from tests.circuits.truth import Truth
from tests.circuits.truths import TRUTHS
from tl_transcoders.circuits.attention import qk_attribution
from tl_transcoders.circuits.graphs import Difference
from tl_transcoders.circuits.nodes import Feature, Head
from tl_transcoders.circuits.weights import (
    Features,
    by_head,
    connections,
    contributions,
    greedy_paths,
    mean_connections,
)
from tl_transcoders.hosts import dissect, resolve_host
from tl_transcoders.splice import splice
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

CHAIN = [case for case in TRUTHS if case[0].name.startswith("A-linear-chain")]
TWO_LAYERS = [
    case
    for case in TRUTHS
    if [bool(layer.features) for layer in case[0].plan.layers[:2]] == [True] * 2
]


@pytest.mark.parametrize(("truth", "host"), CHAIN, ids=case_id)
def test_the_linear_chain_in_closed_form(truth: Truth, host: str) -> None:
    """f0.0 = 3 writes 2 · 3, a1.h0 moves 3 times it from position 1 to 3, where f1.0 reads 18 and writes 5 · 18."""
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        run = capture(spliced, truth.source_tokens)
        source, target, head = Feature(0, 0), Feature(1, 0, 3), Head(1, 0)
        found = list(contributions(spliced, run, source=Features(0), target=target, via=head))
        assert [(s, t) for s, t, v in found if abs(v) > 1e-9] == [(Feature(0, 0, 1), target)]
        assert found[0][2] == pytest.approx(18, abs=1e-9)
        for other in range(1, 4):
            nothing = contributions(
                spliced, run, source=Features(0), target=target, via=Head(1, other)
            )
            assert float(nothing.value.abs().sum()) < 1e-9
        written = contributions(spliced, run, source=Features(1), target=Difference(30, 31))
        assert written.value.tolist() == pytest.approx([90.0], abs=1e-9)
        mean = mean_connections(
            spliced,
            truth.source_tokens,
            source=source,
            target=Feature(1, 0),
            via=head,
            given="both",
        )
        # At positions 1 and 2 the head attends to all it sees alike: 18 / 2 and 18 / 3 arrive.
        assert mean.value.tolist() == pytest.approx([(18 + 9 + 6) / 3], abs=1e-9)
        assert (mean.both.tolist(), mean.n_target.tolist(), mean.n_tokens) == ([3], [3], 4)
        weights = by_head(spliced, source=source, target=Feature(1, 0)).value[1]
        assert float(weights[1:].abs().max()) <= 1e-12 * float(weights[0])


@pytest.mark.parametrize(("truth", "host"), TWO_LAYERS, ids=case_id)
def test_connections_are_dense_products_to_the_last_digits(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        D, E = decoders(spliced, 0, 1), encoders(spliced, 1)
        for via, between in (
            ("residual", torch.eye(len(E)).double()),
            (Head(1, 0), ov(spliced, Head(1, 0))),
        ):
            expected = D @ between @ E
            found = connections(spliced, source=Features(0), target=Features(1), via=via, k=10_000)
            dense = torch.zeros_like(expected)
            dense[found.source, found.target] = found.value
            size = float(expected.abs().max())
            torch.testing.assert_close(dense, expected, atol=1e-9 * size, rtol=0)


def test_low_precision_is_widened() -> None:
    model = HOSTS[0].fresh().to(torch.bfloat16)
    transcoders = Kind("topk-skip", TopK(5), skip=True).build(model)
    with splice(model, transcoders.to(torch.bfloat16), error="keep") as spliced:
        found = connections(spliced, source=Features(0), target=Features(2), via=Head(1, 0))
        assert found.value.dtype == torch.float32
        expected = decoders(spliced, 0, 1) @ ov(spliced, Head(1, 0)) @ encoders(spliced, 2)
        best = expected.flatten().abs().topk(20).values
        torch.testing.assert_close(found.value.abs().double(), best, rtol=1e-4, atol=0)
        paths = greedy_paths(spliced, tokens(1), target=(4, 5))
    assert paths.gap < 0.02


def test_transcoders_may_be_more_precise_than_the_model() -> None:
    model = HOSTS[0].fresh()
    with torch.no_grad():
        for block in dissect(resolve_host(model)).blocks:
            block.ln2.bias.fill_(0.3)
    transcoders = Kind("topk-skip", TopK(5), skip=True).build(model)
    with splice(model.to(torch.bfloat16), transcoders, error="keep") as spliced:
        assert transcoders[1].W_skip.dtype == torch.float32
        paths = greedy_paths(spliced, tokens(1), target=(4, 5))
        found = contributions(
            spliced, tokens(1), source=Features(0), target=Features(2), via=Head(1, 0)
        )
        score = qk_attribution(spliced, tokens(1), head=Head(2, 0), query=-1, key=3)
    assert paths.gap < 0.02
    assert found.value.dtype == torch.float32
    assert score.gap < 0.02
