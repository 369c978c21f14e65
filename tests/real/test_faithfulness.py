"""What circuits of SmolLM2-135M do alone, on induction."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tl_transcoders as tlt
from examples.real_models import load_bridge, smollm2
from tests.cases import Kind
from tests.real.test_splice import small
from tl_transcoders.circuits import (
    Circuit,
    Embed,
    Error,
    Feature,
    Head,
    Logits,
    Mlp,
    faithfulness,
)
from tl_transcoders.circuits.patching import AllHeads, sweep
from tl_transcoders.circuits.tasks import Task, induction
from tl_transcoders.splice.trace.run import Run, capture
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.real]
FREE: tuple[Any, ...] = ("embed", Mlp, Feature, Error)


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[tlt.Spliced, Task, Run, Run]]:
    model = load_bridge(smollm2())
    task = induction(model.tokenizer, n=8, prepend_bos=False)
    transcoders = small(Kind("skip", TopK(5), skip=True, layers=(5, 20)).build(model))
    with torch.no_grad(), tlt.splice(model, transcoders, error="keep") as spliced:
        yield spliced, task, capture(spliced, task.base), capture(spliced, task.source)


def test_all_heads_are_the_model_and_none_leave_little(traced: Any) -> None:
    spliced, task, base, source = traced
    heads = Circuit(Head(layer, head) for layer in range(30) for head in range(9))
    asked: dict[str, Any] = {"metric": task.metric, "given": FREE}
    whole = faithfulness(spliced, heads, base, source, **asked)
    nothing = faithfulness(spliced, Circuit(), base, source, metric=task.metric)
    torch.testing.assert_close(whole.circuit, whole.whole, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(whole.complement, whole.empty, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(nothing.empty, task.metric(source.logits), atol=2e-3, rtol=1e-3)
    assert not whole.degenerate
    assert not whole.inverted


def test_without_a_few_heads_induction_is_gone(traced: Any) -> None:
    """The heads of the first ten layers and the forty that write most to the logits: 130 of 270."""
    spliced, task, base, source = traced
    found = sweep(
        spliced, base, source, senders=[AllHeads()], receivers=["logits"], metric=task.metric
    )
    late = Circuit(node for node, _ in found.top(40))
    early = Circuit(Head(layer, head) for layer in range(10) for head in range(9))
    measured = faithfulness(spliced, late | early, base, source, metric=task.metric, given=FREE)
    assert abs(measured.completeness) < 0.1
    assert not measured.degenerate


def test_an_edge_left_out_is_path_patching_it(traced: Any) -> None:
    spliced, task, base, source = traced
    edges = [(Head(3, 4), Head(12, 1, "k")), (Embed(), Head(9, 0)), (Head(20, 2), Logits()), (Mlp(8), Error(20))]  # fmt: skip
    for edge in edges:
        found = faithfulness(spliced, Circuit(edges=[edge]), base, source, metric=task.metric)
        patched = tlt.path_patch(
            spliced,
            base,
            source,
            senders=[edge[0]],
            receivers=[edge[1]],
            metric=task.metric,
            freeze=tlt.Freeze(errors="live"),
        )
        torch.testing.assert_close(
            found.complement - found.whole, patched.effect, atol=2e-3, rtol=1e-3
        )
