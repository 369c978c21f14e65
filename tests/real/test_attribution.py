"""Attribution on SmolLM2-135M and Gemma-3-270M: edges sum to nodes, nodes to a slow twin by hooks, inputs to a slope."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import tl_transcoders as tlt
from examples.real_models import gemma3, load_bridge, smollm2
from tests.cases import Kind
from tests.circuits.effects_by_hooks import effects_by_hooks
from tests.real.test_splice import small
from tl_transcoders.circuits.attribution import attribute
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, Node
from tl_transcoders.circuits.tasks import Task, ioi
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.splice.trace.run import Run, capture
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.real]
KIND = Kind("skip", TopK(5), skip=True, layers=(3, 9))


@dataclass(frozen=True)
class Case:
    """A spliced model, a base and a source run of it, and what is measured."""

    spliced: Spliced
    base: Run
    source: Run
    task: Task


# As in test_models: SmolLM2's BOS is a chat marker, and Gemma needs its own.
@pytest.fixture(
    scope="module", params=[(smollm2, False), (gemma3, True)], ids=["smollm2", "gemma3"]
)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    folder, prepend_bos = request.param
    model = load_bridge(folder())
    task = ioi(model.tokenizer, n=2, prepend_bos=prepend_bos)
    with splice(model, small(KIND.build(model)), error="keep") as spliced:
        yield Case(spliced, capture(spliced, task.base), capture(spliced, task.source), task)


@pytest.mark.parametrize("errors", ["freeze", "live"])
def test_edges_of_a_sender_sum_to_its_effect(case: Case, errors: Any) -> None:
    found = attribute(
        case.spliced, case.base, case.source, metric=case.task.metric, errors=errors, level="edge",
        max_edges=None,
    )  # fmt: skip
    totals: dict[Node, float] = {}
    for (sender, _), effect in found.edges.top(len(found.edges)):
        totals[sender] = totals.get(sender, 0.0) + effect
    scale = float(found.nodes.effects.abs().max())
    for node, effect in zip(found.nodes.nodes, found.nodes.effects.mean(1).tolist(), strict=True):
        if not (isinstance(node, Head) and node.reader):
            assert totals.get(node, 0.0) == pytest.approx(effect, abs=1e-3 * scale), node


def test_the_slow_twin_agrees(case: Case) -> None:
    found = attribute(case.spliced, case.base, case.source, metric=case.task.metric)
    slow = effects_by_hooks(case.spliced, case.base.tokens, case.source.tokens, case.task.metric)
    n_heads = found.nodes.heads.shape[1]
    scale = float(found.nodes.effects.abs().max())
    for layer in range(case.spliced.host.n_layers):
        z = slow[f"blocks.{layer}.attn.hook_z"].reshape(*case.base.shape, n_heads, -1)
        torch.testing.assert_close(
            found.nodes.heads[layer].T, z.sum((1, 3)), atol=1e-3 * scale, rtol=0
        )
    for node, effect in zip(found.nodes.nodes, found.nodes.effects, strict=True):
        if isinstance(node, Feature):
            twin = slow[f"blocks.{node.layer}.mlp.hook_post"][..., node.index].sum(1)
            torch.testing.assert_close(effect, twin, atol=1e-3 * scale, rtol=0)
        if isinstance(node, Error):
            twin = slow[f"blocks.{node.layer}.mlp.hook_error"].sum((1, 2))
            torch.testing.assert_close(effect, twin, atol=1e-3 * scale, rtol=0)


def test_integrated_gradients_account_for_more_than_one_gradient(case: Case) -> None:
    runs = case.base, case.source
    gaps = [
        attribute(case.spliced, *runs, metric=case.task.metric, errors="live", method=method).gap
        for method in (tlt.AttributionPatching(), tlt.IntegratedGradients(20))
    ]
    found = attribute(case.spliced, *runs, metric=case.task.metric, errors="live")
    embed = found.nodes.where(lambda node: isinstance(node, Embed)).effects[0]
    torch.testing.assert_close(embed - (found.source - found.base), found.gap, atol=1e-3, rtol=0)
    assert gaps[1].abs().mean() < 0.5 * gaps[0].abs().mean()
