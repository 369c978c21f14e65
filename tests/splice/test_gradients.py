"""Where gradients flow, and where they do not."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import FEATURES, HOSTS, Host, Kind, case_id, tokens
from tl_transcoders.splice import splice
from tl_transcoders.transcoders import TopK

pytestmark = pytest.mark.cases

every_host = pytest.mark.parametrize("host", HOSTS, ids=case_id)
KINDS = [
    Kind("topk", TopK(5)),
    Kind("relu-skip", skip=True),
    Kind("ln2_normalized", TopK(5), read="ln2_normalized"),
    Kind("clt", TopK(5), cross_layer=True),
    Kind("clt-skip", skip=True, cross_layer=True, write="mlp_out"),
    Kind("sae", TopK(5), read="resid_pre", write="resid_pre"),
]


def metric(model: Any) -> Tensor:
    return model(tokens(), return_type="logits")[:, -1, 3].sum()


@every_host
@pytest.mark.parametrize("kind", KINDS, ids=case_id)
@pytest.mark.parametrize("error", ["drop", "keep"])
def test_sparse_and_watched_routes_have_the_same_gradient(
    host: Host, kind: Kind, error: Any
) -> None:
    model = host.build()
    with splice(model, kind.build(model), error=error):
        unwatched = embedding_gradient(model, [])
        name = next(n for n in model.hook_dict if n.endswith("hook_post") and "original" not in n)
        watched = embedding_gradient(model, [(name, lambda t, hook: None)])
    assert unwatched.abs().max() > 0
    scale = unwatched.abs().max().item()
    torch.testing.assert_close(watched, unwatched, atol=1e-3 * scale, rtol=0)


@every_host
def test_the_gradient_to_a_feature_predicts_the_effect_of_a_small_edit(host: Host) -> None:
    model = host.build()
    transcoders = Kind("topk", TopK(5)).build(model)
    post = "blocks.1.mlp.hook_post"
    step = 1e-2 * torch.nn.functional.one_hot(torch.tensor(7), FEATURES)
    with splice(model, transcoders):
        kept: list[Tensor] = []
        _, grads = forward_and_backward(model, post, kept)
        with torch.no_grad():
            plain = metric(model)
            model.add_hook(post, lambda t, hook: t + step)
            moved = metric(model)
            model.reset_hooks()
    assert kept[0].requires_grad
    torch.testing.assert_close(moved - plain, (grads * step).sum(), atol=2e-4, rtol=5e-2)


@every_host
def test_a_kept_error_is_a_leaf_that_gradients_reach_and_do_not_pass(host: Host) -> None:
    model = host.build()
    transcoders = Kind("zero", TopK(5)).build(model)
    with torch.no_grad():
        for transcoder in transcoders.values():
            transcoder.W_dec.zero_()
    with splice(model, transcoders, error="keep"):
        seen: list[Tensor] = []
        model.add_hook("blocks.2.mlp.hook_error", lambda g, hook: seen.append(g), dir="bwd")
        last_layer_input: list[Tensor] = []
        model.add_hook(
            "blocks.2.mlp.hook_in", lambda g, hook: last_layer_input.append(g), dir="bwd"
        )
        metric(model).backward()
        model.reset_hooks()
    model.zero_grad()
    assert seen[0].abs().max() > 0
    assert not last_layer_input or last_layer_input[0].abs().max() == 0


@every_host
def test_frozen_transcoder_weights_get_no_gradient(host: Host) -> None:
    model = host.build()
    transcoders = Kind("topk", TopK(5)).build(model)
    with splice(model, transcoders):
        metric(model).backward()
    model.zero_grad()
    assert all(p.grad is None for t in transcoders.values() for p in t.parameters())


def embedding_gradient(model: Any, fwd_hooks: list[Any]) -> Tensor:
    leaf: list[Tensor] = []

    def as_leaf(t: Tensor, hook: Any) -> Tensor:
        leaf.append(t.detach().requires_grad_())
        return leaf[0]

    hooks = [("blocks.0.hook_resid_pre", as_leaf), *fwd_hooks]
    logits = model.run_with_hooks(tokens(), fwd_hooks=hooks)
    return torch.autograd.grad(logits[:, -1, 3].sum(), leaf[0])[0]


def forward_and_backward(model: Any, name: str, kept: list[Tensor]) -> tuple[Tensor, Tensor]:
    def keep(t: Tensor, hook: Any) -> None:
        kept.append(t)

    logits = model.run_with_hooks(tokens(), fwd_hooks=[(name, keep)])
    value = logits[:, -1, 3].sum()
    return value, torch.autograd.grad(value, kept[0])[0]
