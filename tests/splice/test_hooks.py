"""The user's hooks: before, during and after a splice, whatever ends it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import FEATURES, HOSTS, Host, Kind, case_id, tokens
from tl_transcoders.errors import HookNeverFiredError
from tl_transcoders.hosts import all_hook_points, resolve_host
from tl_transcoders.splice import splice
from tl_transcoders.transcoders import ReLU, TopK

pytestmark = pytest.mark.cases

every_host = pytest.mark.parametrize("host", HOSTS, ids=case_id)
TOPK = Kind("topk", TopK(5))
CLT = Kind("clt", TopK(5), cross_layer=True)
POST = "blocks.1.mlp.hook_post"


class Crash(Exception):
    pass


@every_host
@pytest.mark.parametrize("failure", [Crash, KeyboardInterrupt, SystemExit])
def test_any_exit_leaves_no_hook_behind_and_the_users_in_place(
    host: Host, failure: type[BaseException]
) -> None:
    model = host.fresh()
    fired: list[str] = []

    def mine(tensor: Tensor, hook: Any) -> None:
        fired.append("mine")

    names = ["blocks.1.hook_mlp_out", "blocks.1.hook_resid_post", "blocks.0.ln2.hook_normalized"]
    for name in names:
        model.add_hook(name, mine, is_permanent=True)
    model.add_hook("blocks.0.hook_resid_pre", mine)
    before = hooks_of(model)
    with (  # noqa: PT012
        pytest.raises(failure),
        splice(model, Kind("r", TopK(5), read="ln2_normalized").build(model)),
        splice(model, Kind("s", read="resid_post", write="resid_post").build(model)),
    ):
        model(tokens())
        raise failure
    assert hooks_of(model) == before
    fired.clear()
    model(tokens())
    assert len(fired) == 4


@every_host
def test_the_proof_does_not_fire_the_users_hooks(host: Host) -> None:
    model = host.fresh()
    fired: list[str] = []
    model.add_hook("blocks.1.hook_mlp_out", lambda t, hook: fired.append("x"), is_permanent=True)
    splice(model, TOPK.build(model)).remove()
    assert fired == []
    assert model(tokens()) is not None
    assert fired == ["x"]


@every_host
def test_a_hook_on_mlp_out_set_before_the_splice_sees_the_reconstruction(host: Host) -> None:
    model = host.fresh()
    seen: list[Tensor] = []
    model.add_hook(
        "blocks.1.hook_mlp_out", lambda t, hook: seen.append(t.detach()), is_permanent=True
    )
    transcoders = TOPK.build(model)
    with splice(model, transcoders), torch.no_grad():
        _, cache = model.run_with_cache(tokens())
    kept = cache["blocks.1.hook_mlp_out"]
    torch.testing.assert_close(seen[0], kept)
    if resolve_host(model).post_norm(1) is None:
        torch.testing.assert_close(kept, transcoders[1](cache["blocks.1.mlp.hook_in"]))


@every_host
def test_reset_hooks_inside_the_splice_does_not_take_it_out(host: Host) -> None:
    model = host.fresh()
    transcoders = Kind("r", TopK(5), read="ln2_normalized").build(model)
    with splice(model, transcoders), torch.no_grad():
        before = model(tokens())
        model.reset_hooks(including_permanent=True)
        assert torch.equal(model(tokens()), before)


@every_host
@pytest.mark.parametrize("kind", [TOPK, CLT, Kind("relu-skip", skip=True)], ids=case_id)
@pytest.mark.parametrize(
    ("error", "in_place", "grad"),
    [("drop", False, False), ("keep", True, False), ("keep", False, True), ("drop", True, True)],
)
def test_an_edit_of_features_moves_the_output_by_its_decoder_rows(
    host: Host, kind: Kind, error: Any, in_place: bool, grad: bool
) -> None:
    model = host.build()
    transcoders = kind.build(model)

    def add(features: Tensor, hook: Any) -> Tensor | None:
        if in_place:
            features[..., 7] += 2
            return None
        return features + 2 * torch.nn.functional.one_hot(torch.tensor(7), FEATURES)

    row = transcoders.W_dec[1][0][7] if kind.cross_layer else transcoders[1].W_dec[7]
    raw = raw_output_name(model)
    with splice(model, transcoders, error=error), torch.set_grad_enabled(grad):
        plain = run_and_keep(model, raw, [])
        edited = run_and_keep(model, raw, [(POST, add)])
    torch.testing.assert_close(edited, plain + 2 * row, atol=1e-4, rtol=1e-4)


RELU = Kind("relu", ReLU())
WRITTEN = [
    (POST, TOPK, "drop"),
    (POST, TOPK, "keep"),
    (POST, RELU, "keep"),
    (POST, CLT, "keep"),
    ("blocks.1.mlp.hook_pre", TOPK, "keep"),
    ("blocks.1.mlp.hook_pre", RELU, "keep"),
]


@every_host
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(("name", "kind", "error"), WRITTEN)
def test_what_a_hook_writes_past_autograd_counts(
    host: Host, mode: Any, name: str, kind: Kind, error: Any
) -> None:
    """torch does not count writes through .data, .numpy() or, in inference mode, any."""
    model = host.build()

    def returned(features: Tensor, hook: Any) -> Tensor:
        return torch.cat([features[..., :7], features[..., 7:8] + 20, features[..., 8:]], dim=-1)

    def written(features: Tensor, hook: Any) -> None:
        features.data[..., 7] += 20

    with splice(model, kind.build(model), error=error), mode():
        plain = model(tokens())
        properly = model.run_with_hooks(tokens(), fwd_hooks=[(name, returned)])
        past = model.run_with_hooks(tokens(), fwd_hooks=[(name, written)])
    assert not torch.allclose(properly, plain, atol=1e-3)
    torch.testing.assert_close(past, properly, atol=1e-4, rtol=1e-4)


@every_host
def test_an_edit_of_pre_activations_goes_through_the_activation(host: Host) -> None:
    model = host.build()
    transcoders = TOPK.build(model)

    def silence(pre: Tensor, hook: Any) -> Tensor:
        return torch.full_like(pre, -1.0)

    raw = raw_output_name(model)
    with splice(model, transcoders), torch.no_grad():
        out = run_and_keep(model, raw, [("blocks.1.mlp.hook_pre", silence)])
    torch.testing.assert_close(out, transcoders[1].b_dec.expand_as(out))


@every_host
def test_cross_layer_edits_reach_every_later_layer(host: Host) -> None:
    model = host.build()
    clt = CLT.build(model)

    def add(features: Tensor, hook: Any) -> Tensor:
        return features + torch.nn.functional.one_hot(torch.tensor(7), FEATURES)

    def frozen_input(name: str, value: Tensor) -> tuple[str, Callable[..., Tensor]]:
        return name, lambda t, hook: value

    raw = raw_output_name(model, 2)
    with splice(model, clt), torch.no_grad():
        _, cache = model.run_with_cache(tokens())
        # hold the later inputs still: what is left is the feature's own decoder to layer 2
        still = [
            frozen_input(f"blocks.{i}.mlp.hook_in", cache[f"blocks.{i}.mlp.hook_in"])
            for i in (1, 2)
        ]
        plain = run_and_keep(model, raw, still)
        edited = run_and_keep(model, raw, [("blocks.0.mlp.hook_post", add), *still])
    torch.testing.assert_close(
        edited - plain, clt.W_dec[0][2][7].expand_as(plain), atol=1e-5, rtol=1e-4
    )


@every_host
def test_the_error_is_a_hook_point_and_can_be_edited(host: Host) -> None:
    model = host.build()
    base = model(tokens()).detach()
    transcoders = TOPK.build(model)
    with splice(model, transcoders, error="keep"), torch.no_grad():
        dropped_by_hand = model.run_with_hooks(
            tokens(),
            fwd_hooks=[(f"blocks.{i}.mlp.hook_error", lambda e, hook: e * 0) for i in range(3)],
        )
        logits, cache = model.run_with_cache(tokens())
    with splice(model, transcoders), torch.no_grad():
        dropped = model(tokens())
        _, without = model.run_with_cache(tokens())
    torch.testing.assert_close(dropped_by_hand, dropped, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, base, atol=1e-4, rtol=0)
    assert cache["blocks.1.mlp.hook_error"].abs().max() > 0
    assert without["blocks.1.mlp.hook_error"].abs().max() == 0


@every_host
def test_a_hook_that_writes_into_the_error_leaves_the_base_run_alone(host: Host) -> None:
    model = host.build()

    def silence(error: Tensor, hook: Any) -> None:
        error.zero_()

    frozen = splice(model, TOPK.build(model), error="freeze", base=tokens())
    with frozen, torch.no_grad():
        before = model(tokens())
        edited = model.run_with_hooks(tokens(), fwd_hooks=[("blocks.1.mlp.hook_error", silence)])
        after = model(tokens())
    assert not torch.equal(edited, before)
    assert torch.equal(after, before)


@every_host
def test_neurons_inside_a_kept_mlp_stay_visible(host: Host) -> None:
    model = host.build()
    with torch.no_grad():
        _, plain = model.run_with_cache(tokens())
    with splice(model, TOPK.build(model), error="keep"), torch.no_grad():
        _, cache = model.run_with_cache(tokens())
    inside = {name.split(".original.")[1] for name in cache if ".original." in name}
    assert inside
    if host.kind == "hooked":
        torch.testing.assert_close(
            cache["blocks.0.mlp.original.hook_post"], plain["blocks.0.mlp.hook_post"]
        )


@every_host
def test_hooks_inside_a_dropped_mlp_are_not_offered(host: Host) -> None:
    model = host.build()
    with splice(model, TOPK.build(model)):
        assert not [name for name in model.hook_dict if ".original" in name or ".gate" in name]


def test_a_site_that_does_not_fire_raises() -> None:
    model = HOSTS[0].fresh()
    spliced = splice(model, Kind("r", TopK(5), read="resid_mid").build(model))
    resolve_host(model).block(
        1
    )._forward_pre_hooks.clear()  # as if the block no longer announced itself
    with pytest.raises(HookNeverFiredError, match=r"blocks\.1\.hook_resid_mid: got no value"):
        model(tokens())
    spliced.remove()


def run_and_keep(model: Any, name: str, fwd_hooks: list[Any]) -> Tensor:
    kept: list[Tensor] = []
    keep = (name, lambda t, hook: kept.append(t.detach().clone()))
    model.run_with_hooks(tokens(), fwd_hooks=[*fwd_hooks, keep])
    return kept[0]


def raw_output_name(model: Any, layer: int = 1) -> str:
    return f"blocks.{layer}.mlp.hook_out"


def hooks_of(model: Any) -> list[tuple[str | None, list[int], list[int]]]:
    return [
        (point.name, [id(h) for h in point.fwd_hooks], list(point._forward_hooks))
        for point in all_hook_points(model)
    ] + [
        (name, list(module._forward_hooks), list(module._forward_pre_hooks))
        for name, module in model.named_modules()
        if "block" in type(module).__name__.lower() or "embed" in name
    ]
