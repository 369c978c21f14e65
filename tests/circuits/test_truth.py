"""The hand-built models keep what they claim, by plain TransformerLens hooks alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import case_id, only_in_the_whole_table
from tests.circuits.truth import Truth, nodes_of
from tests.circuits.truths import TRUTHS
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, Node
from tl_transcoders.splice import splice
from tl_transcoders.splice.trace.run import capture

pytestmark = only_in_the_whole_table
every_truth = pytest.mark.parametrize(("truth", "host"), TRUTHS, ids=case_id)


def hook_name(node: Node) -> str:
    match node:
        case Embed():
            return "blocks.0.hook_resid_pre"
        case Head(layer):
            return f"blocks.{layer}.attn.hook_z"
        case Feature(layer):
            return f"blocks.{layer}.mlp.hook_post"
        case Error(layer):
            return f"blocks.{layer}.mlp.hook_error"
        case _:
            raise AssertionError(node)


def part(node: Node, value: Tensor, n_heads: int) -> Tensor:
    """What a node is in the value of its hook point, as a view."""
    match node:
        case Feature(_, index):
            return value[..., index]
        case Head(_, head):
            return value.view(*value.shape[:2], n_heads, -1)[:, :, head]
        case _:
            return value


def patch(node: Node, theirs: Tensor, n_heads: int) -> tuple[str, Any]:
    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        part(node, value, n_heads).copy_(part(node, theirs, n_heads))
        return value

    return hook_name(node), put


def measured(truth: Truth, model: Any, text: str) -> float:
    """m(base with nodes ← source) − m(base), everything after the nodes live."""
    nodes, n_heads = nodes_of(text), model.cfg.n_heads
    names = {hook_name(node) for node in nodes}
    with torch.no_grad():
        _, cache = model.run_with_cache(
            truth.source_tokens, names_filter=lambda name: name in names
        )
        hooks = [patch(node, cache[hook_name(node)], n_heads) for node in nodes]
        base = model(truth.base_tokens, return_type="logits")
        patched = model.run_with_hooks(truth.base_tokens, fwd_hooks=hooks, return_type="logits")
    return float(truth.metric(patched) - truth.metric(base))


@every_truth
def test_every_effect_is_what_plain_hooks_measure(truth: Truth, host: str) -> None:
    model = truth.model(host)
    with splice(model, truth.plan.transcoders(), error="keep"):
        found = {text: measured(truth, model, text) for text in truth.effects}
    assert found == {
        text: pytest.approx(v, abs=1e-10, rel=1e-12) for text, v in truth.effects.items()
    }


@every_truth
def test_decoys_do_exactly_nothing(truth: Truth, host: str) -> None:
    model = truth.model(host)
    with splice(model, truth.plan.transcoders(), error="keep"):
        found = {text: measured(truth, model, text) for text, v in truth.effects.items() if v == 0}
    assert {text: value for text, value in found.items() if abs(value) > 1e-13} == {}


@every_truth
def test_patching_the_embedding_is_the_source_run(truth: Truth, host: str) -> None:
    model = truth.model(host)
    with splice(model, truth.plan.transcoders(), error="keep"), torch.no_grad():
        base, source = (
            truth.metric(model(tokens, return_type="logits"))
            for tokens in (truth.base_tokens, truth.source_tokens)
        )
        assert base.dtype == torch.float64
    assert float(source - base) == pytest.approx(truth.effects["embed"], abs=1e-10, rel=1e-12)


@every_truth
def test_keeping_the_error_gives_the_original_model(truth: Truth, host: str) -> None:
    model = truth.model(host)
    with torch.no_grad():
        original = model(truth.base_tokens, return_type="logits")
        with splice(model, truth.plan.transcoders(), error="keep"):
            kept = model(truth.base_tokens, return_type="logits")
    torch.testing.assert_close(kept, original, atol=1e-12, rtol=1e-12)


@every_truth
def test_first_order_effects_go_astray_where_theory_says(truth: Truth, host: str) -> None:
    model, n_heads = truth.model(host), truth.model(host).cfg.n_heads
    nodes = {text: nodes_of(text)[0] for text in truth.gradients}
    names = {hook_name(node) for node in nodes.values()}
    kept: dict[str, Tensor] = {}

    def keeper(name: str) -> tuple[str, Any]:
        def keep(value: Tensor, hook: Any) -> Tensor:
            kept[name] = value if value.requires_grad else value.clone().requires_grad_()
            kept[name].retain_grad()
            return kept[name]

        return name, keep

    with splice(model, truth.plan.transcoders(), error="keep"):
        _, theirs = model.run_with_cache(truth.source_tokens, names_filter=lambda n: n in names)
        logits = model.run_with_hooks(
            truth.base_tokens, fwd_hooks=[keeper(name) for name in names], return_type="logits"
        )
        if not names:
            return
        truth.metric(logits).sum().backward()
    for text, node in nodes.items():
        value = kept[hook_name(node)]
        gradient = torch.zeros_like(value) if value.grad is None else value.grad
        change = (theirs[hook_name(node)] - value.detach()) * gradient
        found = float(part(node, change, n_heads).sum())
        assert found == pytest.approx(truth.gradients[text], abs=1e-10, rel=1e-10), text


@every_truth
def test_the_engine_computes_the_same_model(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        assert capture(spliced, truth.base_tokens).gap < 1e-10
        assert capture(spliced, truth.source_tokens).gap < 1e-10


@every_truth
def test_a_changed_weight_is_noticed(truth: Truth, host: str) -> None:
    model, transcoders = truth.model(host), truth.plan.transcoders()
    true = [text for text in truth.effects if text.startswith("f") and truth.effects[text]]
    for transcoder in transcoders.values():
        transcoder.W_dec.mul_(0.5)
    with splice(model, transcoders, error="keep"):
        gaps = [abs(measured(truth, model, text) - truth.effects[text]) for text in true]
    assert max(gaps, default=1) > 1e-3
    assert true or truth.name == "B-induction"
