"""Path patching on SmolLM2-135M and Gemma-3-270M: against its slow twin, hooks on the model itself, and its laws.

Effects are differences of logits, which reach 40 on these models: in float32 they agree to TOLERANCE.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from examples.real_models import gemma3, load_bridge, smollm2
from tests.cases import Kind
from tests.real.test_splice import small
from tl_transcoders.circuits.metrics import AbstractMetric
from tl_transcoders.circuits.nodes import (
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
    write_node,
)
from tl_transcoders.circuits.patching import ActiveFeatures, AllHeads, sweep
from tl_transcoders.circuits.reference import live_path_patch
from tl_transcoders.circuits.tasks import Task, ioi
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.splice.trace.run import Run, capture
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.real]
TOLERANCE = 1e-4
KIND = Kind("skip", TopK(5), skip=True, layers=(3, 9))
WANG_FROM, WANG_TO = 8, KeyValue(11, 0, "v")
"""All heads of a layer, and what receives from them."""


@dataclass(frozen=True)
class Case:
    """A spliced model, a base and a source run of it, what is measured, and an effect on the model without splice."""

    spliced: Spliced
    base: Run
    source: Run
    metric: AbstractMetric
    wang: Tensor

    def feature(self, layer: int) -> Feature:
        """A feature that is active at the end of the base run and differs in the source run."""
        ours, theirs = (
            run.values["features", layer].to_dense()[:, -1] for run in (self.base, self.source)
        )
        return Feature(layer, int((ours - theirs).abs().sum(0).argmax()))


# As in test_models: SmolLM2's BOS is a chat marker, and Gemma needs its own.
@pytest.fixture(
    scope="module", params=[(smollm2, False), (gemma3, True)], ids=["smollm2", "gemma3"]
)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    folder, prepend_bos = request.param
    model = load_bridge(folder())
    task = ioi(model.tokenizer, n=2, prepend_bos=prepend_bos)
    wang = wang_by_hooks(model, task)
    torch.manual_seed(0)
    transcoders = small(KIND.build(model))
    with torch.no_grad():
        for transcoder in transcoders.values():
            transcoder.W_dec *= 1000  # so that features matter
    with splice(model, transcoders, error="keep") as spliced:
        runs = capture(spliced, task.base), capture(spliced, task.source)
        yield Case(spliced, *runs, task.metric, wang)


RECEIVERS: list[tuple[str, Node]] = [
    ("edge", Head(11, 2, "q")),
    ("edge", KeyValue(11, 0, "k")),
    ("edge", Feature(9, -1)),
    ("edge", Error(9)),
    ("edge", Logits()),
    ("wang", Head(11, 3, "k")),
    ("wang", Feature(9, -1)),
    ("wang", Logits()),
    ("linear", Head(11, 0, "v")),
    ("linear", Logits()),
]


@pytest.mark.parametrize(
    ("preset", "receiver"), RECEIVERS, ids=[f"{p}-{write_node(n)}" for p, n in RECEIVERS]
)
def test_the_slow_twin_agrees(case: Case, preset: Any, receiver: Node) -> None:
    if isinstance(receiver, Feature):
        receiver = case.feature(receiver.layer)
    senders = [Head(8, 1), Embed(-4), Mlp(6), case.feature(3), Error(3)]
    fast = tlt.path_patch(
        case.spliced,
        case.base,
        case.source,
        senders=senders,
        receivers=[receiver],
        metric=case.metric,
        freeze=preset,
    ).effect
    slow = live_path_patch(
        case.spliced,
        case.base.tokens,
        case.source.tokens,
        senders,
        [receiver],
        case.metric,
        freeze=preset,
    )
    torch.testing.assert_close(fast, slow, atol=TOLERANCE, rtol=1e-3)
    assert slow.abs().max() > 2 * TOLERANCE


@pytest.mark.parametrize("preset", ["edge", "wang"])
def test_all_writers_patched_give_the_source_run(case: Case, preset: Any) -> None:
    model = case.base.model
    writers: list[Node] = [Embed()]
    for layer, block in enumerate(model.anatomy.blocks):
        writers += [Head(layer, head) for head in range(block.attention.n_heads)]
        coder = model.coders.get(layer)
        if coder is None:
            writers.append(Mlp(layer))
        else:
            writers += [Error(layer), *(Feature(layer, i) for i in range(coder.n_features))]
    found = tlt.path_patch(
        case.spliced,
        case.base,
        case.source,
        senders=writers,
        receivers=["logits"],
        metric=case.metric,
        freeze=preset,
    )
    torch.testing.assert_close(found.effect, found.source - found.base, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("receivers", [["logits"], ["a11.h2<q>"], ["a11.kv0<k>@-4", "f9.3"]])
def test_a_sweep_is_path_patching_one_sender_at_a_time(case: Case, receivers: list[str]) -> None:
    asked: dict[str, Any] = {"receivers": receivers, "metric": case.metric}
    families = [AllHeads([2, 8]), ActiveFeatures([3])]
    swept = sweep(case.spliced, case.base, case.source, senders=families, **asked)
    assert swept.effects.abs().max() > 2 * TOLERANCE
    strongest = [node for node, _ in swept.top(2)]
    for node in [*strongest, *swept.nodes[::11]]:
        one = tlt.path_patch(case.spliced, case.base, case.source, senders=[node], **asked)
        row = swept.effects[swept.nodes.index(node)]
        torch.testing.assert_close(row, one.effect, atol=TOLERANCE, rtol=1e-3)


def test_wang_with_live_errors_is_wang_on_the_model_itself(case: Case) -> None:
    n_heads = case.base.model.anatomy.blocks[WANG_FROM].attention.n_heads
    found = tlt.path_patch(
        case.spliced,
        case.base,
        case.source,
        senders=[Head(WANG_FROM, head) for head in range(n_heads)],
        receivers=[WANG_TO],
        metric=case.metric,
        freeze="wang",
    )
    torch.testing.assert_close(found.effect, case.wang, atol=TOLERANCE, rtol=1e-3)
    assert case.wang.abs().max() > 2 * TOLERANCE


@torch.no_grad()
def wang_by_hooks(model: Any, task: Task) -> Tensor:
    """Wang et al.'s two runs: heads held but for senders, MLPs running; then the values of a group put in."""
    z = [f"blocks.{layer}.attn.hook_z" for layer in range(WANG_TO.layer)]
    v = f"blocks.{WANG_TO.layer}.attn.hook_v"
    kept: list[Tensor] = []

    def always(value: Tensor) -> Any:
        return lambda x, hook: value

    def keep(x: Tensor, hook: object) -> None:
        kept.append(x.clone())

    def put(x: Tensor, hook: object) -> Tensor:
        by_group, new = (t.clone().view(*x.shape[:2], -1, model.cfg.d_head) for t in (x, kept[0]))
        by_group[:, :, WANG_TO.group] = new[:, :, WANG_TO.group]
        return by_group.view(x.shape)

    before, ours = model.run_with_cache(task.base, names_filter=z)
    _, theirs = model.run_with_cache(task.source, names_filter=z)
    held = [(name, always((theirs if i == WANG_FROM else ours)[name])) for i, name in enumerate(z)]
    model.run_with_hooks(task.base, fwd_hooks=[*held, (v, keep)])
    after = model.run_with_hooks(task.base, fwd_hooks=[(v, put)])
    return task.metric(after) - task.metric(before)
