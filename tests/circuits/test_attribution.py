"""Attribution: against models whose gradients are known, its slow twin by hooks, and exact patching near the base."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from tests.cases import BATCH, HOSTS, Host, Kind, case_id, tokens
from tests.circuits.effects_by_hooks import effects_by_hooks
from tests.circuits.truth import Truth, ends_of, nodes_of
from tests.circuits.truths import TRUTHS
from tl_transcoders.circuits.attribution import Attribution, attribute
from tl_transcoders.circuits.nodes import Error, Feature, Head, KeyValue, Logits, Node
from tl_transcoders.errors import ConfigError, ShapeError
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.transcoders import TopK

RAW = [host for host in HOSTS if not host.processed]
every_truth = pytest.mark.parametrize(("truth", "host"), TRUTHS, ids=case_id)
every_raw_host = pytest.mark.parametrize("host", RAW, ids=case_id)
SKIP = Kind("topk-skip", TopK(5), skip=True)
CLT = Kind("clt", TopK(5), cross_layer=True)
BASE, SOURCE = tokens(seed=1), tokens(seed=2)
DROP = tlt.AttributionPatching(grad_drop=True)


def last(logits: Tensor) -> Tensor:
    return logits[:, -1, 5] - logits[:, -1, 9]


def of(truth: Truth, spliced: Spliced, **options: Any) -> Attribution:
    options = {"level": "edge", "max_edges": None} | options
    return attribute(
        spliced, truth.base_tokens, truth.source_tokens, metric=truth.metric, **options
    )


def node_effect(found: Attribution, nodes: list[Node]) -> float:
    return float(found.nodes.where(lambda node: node in nodes).effects.sum())


def edge_effect(found: Attribution, text: str) -> float:
    senders, receiver = ends_of(text)
    receivers: list[Node] = [receiver]
    if isinstance(receiver, KeyValue):
        receivers = [n for n in found.edges.nodes if isinstance(n, Head) and n.layer == receiver.layer
                     and n.reader == receiver.reader]  # fmt: skip
    return sum(
        effect
        for (u, v), effect in found.edges.top(len(found.edges))
        if u in senders and v in receivers
    )


@every_truth
def test_known_gradients_are_found(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        found = of(truth, spliced)
    for text, value in truth.gradients.items():
        if "->" not in text:
            assert node_effect(found, nodes_of(text)) == pytest.approx(value, abs=1e-9), text


@every_truth
def test_decoys_get_nothing(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        found = of(truth, spliced, errors="live")
    edges = dict(found.edges.top(len(found.edges)))
    for text, value in truth.edges.items():
        senders, receiver = ends_of(text)
        if value == 0 and len(senders) == 1 and not isinstance(receiver, KeyValue):
            known = truth.gradients.get(text, 0.0)
            assert abs(edges.get((senders[0], receiver), 0.0) - known) < 1e-9, text


LINEAR = [case for case in TRUTHS if case[0].name.startswith("A-")]


@pytest.mark.parametrize(("truth", "host"), LINEAR, ids=case_id)
@pytest.mark.parametrize(
    "method",
    [tlt.AttributionPatching(), tlt.IntegratedGradients(3), tlt.IntegratedGradients(3, over="activations"),
     tlt.AttributionPatching(qk_fix=True), tlt.RelP(), tlt.FrozenLinear()],
    ids=str,
)  # fmt: skip
def test_every_method_agrees_on_the_linear_chain(truth: Truth, host: str, method: Any) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        found = of(truth, spliced, method=method, errors="live")
    for text, value in truth.effects.items():
        assert node_effect(found, nodes_of(text)) == pytest.approx(value, abs=1e-9), text
    for text, value in truth.edges.items():
        assert edge_effect(found, text) == pytest.approx(value, abs=1e-9), text
    assert found.gap.abs().max() < 1e-9


def named(name: str) -> Any:
    chosen = [case for case in TRUTHS if case[0].name == name]
    return pytest.mark.parametrize(("truth", "host"), chosen, ids=case_id)


@named("E-softmax-saturation")
def test_a_saturated_softmax_hides_queries_until_fixed(truth: Truth, host: str) -> None:
    true = truth.edges["f0.0->a1.h0<q>"]
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        plain = of(truth, spliced)
        fixed = of(truth, spliced, method=tlt.AttributionPatching(qk_fix=True))
    assert abs(edge_effect(plain, "f0.0->a1.h0<q>")) < 1e-5
    assert edge_effect(fixed, "f0.0->a1.h0<q>") == pytest.approx(true, abs=1e-6)
    assert node_effect(fixed, [Head(1, 0, "q")]) == pytest.approx(true, abs=1e-6)


@named("B-induction")
def test_saturated_keys_are_fixed_too(truth: Truth, host: str) -> None:
    true = truth.edges["a0.h0->a1.h0<k>"]
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        fixed = of(truth, spliced, method=tlt.AttributionPatching(qk_fix=True), by_position=False)
    assert abs(true) > 1
    assert node_effect(fixed, [Head(1, 0, "k")]) != 0


@named("E-relu-saturation")
def test_integrated_gradients_see_past_a_shut_gate(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        plain = of(truth, spliced)
        along = of(truth, spliced, method=tlt.IntegratedGradients(200))
    assert edge_effect(plain, "embed->f0.0") == 0
    assert edge_effect(along, "embed->f0.0") == pytest.approx(truth.effects["embed"], abs=0.02)


@named("E-cancellation")
def test_grad_drop_sees_what_cancels(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        plain = of(truth, spliced, level="node")
        dropped = of(truth, spliced, level="node", method=tlt.AttributionPatching(grad_drop=True))
    assert node_effect(plain, [Feature(0, 0)]) == pytest.approx(0, abs=1e-9)
    assert node_effect(dropped, [Feature(0, 0)]) > 0.5


@every_raw_host
@pytest.mark.parametrize("kind", [SKIP, CLT], ids=case_id)
@pytest.mark.cases
def test_the_slow_twin_agrees(host: Host, kind: Kind) -> None:
    model = host.build()
    with splice(model, kind.build(model), error="keep") as spliced:
        found = attribute(spliced, BASE, SOURCE, metric=last)
        slow = effects_by_hooks(spliced, BASE, SOURCE, last)
    n_heads = found.nodes.heads.shape[1]
    for layer in range(model.cfg.n_layers):
        z = slow[f"blocks.{layer}.attn.hook_z"].reshape(BATCH, BASE.shape[1], n_heads, -1)
        torch.testing.assert_close(found.nodes.heads[layer].T, z.sum((1, 3)), atol=1e-4, rtol=1e-3)
    features = found.nodes.where(lambda node: isinstance(node, Feature))
    for node, effect in zip(features.nodes, features.effects, strict=True):
        assert isinstance(node, Feature)
        twin = slow[f"blocks.{node.layer}.mlp.hook_post"][..., node.index].sum(1)
        torch.testing.assert_close(effect, twin, atol=1e-4, rtol=1e-3)
    errors = found.nodes.where(lambda node: isinstance(node, Error))
    for node, effect in zip(errors.nodes, errors.effects, strict=True):
        assert isinstance(node, Error)
        twin = slow[f"blocks.{node.layer}.mlp.hook_error"].sum((1, 2))
        torch.testing.assert_close(effect, twin, atol=1e-4, rtol=1e-3)


def test_a_changed_decoder_is_noticed_by_the_twin() -> None:
    host = RAW[0]
    model = host.build()
    transcoders = SKIP.build(model)
    with splice(model, transcoders, error="keep") as spliced:
        slow = effects_by_hooks(spliced, BASE, SOURCE, last)
        with torch.no_grad():
            transcoders[1].W_dec.mul_(1.5)
        found = attribute(spliced, BASE, SOURCE, metric=last)
    features = found.nodes.where(lambda node: isinstance(node, Feature) and node.layer == 1)
    twin = slow["blocks.1.mlp.hook_post"].sum(1)
    theirs = torch.stack(
        [twin[:, node.index] for node in features.nodes if isinstance(node, Feature)]
    )
    assert (features.effects - theirs).abs().max() > 0.1 * theirs.abs().max()


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_told() -> None:
    model = RAW[0].build()
    transcoders = SKIP.build(model)
    with splice(model, transcoders) as spliced:
        with pytest.raises(ConfigError, match='"live" in a splice with error="drop"'):
            attribute(spliced, BASE, SOURCE, metric=last, errors="live")
        with pytest.raises(ShapeError, match="equal length"):
            attribute(spliced, BASE, SOURCE[:, :-1], metric=last)
        with pytest.raises(ConfigError, match="gradients do not reach"):
            attribute(spliced, BASE, SOURCE, metric=lambda logits: logits[:, -1].argmax(-1).float())
        with pytest.raises(ConfigError, match=r"a5\.h1<q>"):
            attribute(spliced, BASE, SOURCE, metric=last, level="edge", receivers=["a1.h0"])
        with pytest.raises(ConfigError, match="by_position=True"):
            attribute(spliced, BASE, SOURCE, metric=last, level="edge", receivers=["a1.h0<q>@2"])
        with pytest.raises(ConfigError, match="GradDrop of nodes"):
            attribute(spliced, BASE, SOURCE, metric=last, level="edge", method=DROP)
        with pytest.raises(ConfigError, match="kinds"):
            attribute(spliced, BASE, SOURCE, metric=last, kinds=())
        with pytest.raises(ConfigError, match="level"):
            attribute(spliced, BASE, SOURCE, metric=last, level="edges")  # pyright: ignore
        with pytest.raises(ConfigError, match="method"):
            attribute(spliced, BASE, SOURCE, metric=last, method="ig")  # pyright: ignore
    with pytest.raises(ConfigError, match="steps"):
        tlt.IntegratedGradients(0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"receivers": ["logits"]}, 'level="node"'),
        ({"level": "edge", "receivers": []}, "expected nodes, such as"),
        ({"level": "edge", "receivers": "logits"}, "expected nodes, such as"),
        ({"level": "edge", "receivers": [5]}, "a node or its text"),
        ({"level": "edge", "max_edges": -1}, "expected a whole number from 1"),
        ({"level": "edge", "receivers": ["m1"], "kinds": (Head,)}, "a kind that is left out"),
        ({"metric": lambda logits: logits[:, -1, 0] * float("nan")}, "expected a finite number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_would_be_empty_is_refused(options: dict[str, Any], message: str) -> None:
    model = RAW[0].build()
    two = Kind("two-layers", TopK(5), layers=(0, 2)).build(model)
    with splice(model, two, error="keep") as spliced, pytest.raises(ConfigError, match=message):
        attribute(spliced, BASE, SOURCE, **{"metric": last, **options})


@named("E-softmax-saturation")
def test_grad_drop_keeps_the_fix_of_queries(truth: Truth, host: str) -> None:
    method = tlt.AttributionPatching(qk_fix=True, grad_drop=True)
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        found = of(truth, spliced, level="node", method=method)
    assert node_effect(found, [Head(1, 0, "q")]) > 0.1


def test_one_kind_has_edges_to_the_logits() -> None:
    model = RAW[0].build()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        found = attribute(spliced, BASE, SOURCE, metric=last, level="edge", kinds=(Head,))
    assert {type(v) for _, v in (edge for edge, _ in found.edges.top(10**6))} == {Head, Logits}
