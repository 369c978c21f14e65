"""Laws of the splice over the case table: architecture × host × transcoder kind."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import CASES, HOSTS, Host, Kind, case_id, tokens
from tl_transcoders.hosts import HOOK_NAMES, resolve_host
from tl_transcoders.splice import Mode, splice
from tl_transcoders.transcoders import CrossLayerTranscoder

pytestmark = pytest.mark.cases

every_case = pytest.mark.parametrize(("host", "kind"), CASES, ids=case_id)
every_host = pytest.mark.parametrize("host", HOSTS, ids=case_id)


def logits_of(model: Any, prompts: Tensor) -> Tensor:
    with torch.no_grad():
        return model(prompts, return_type="logits")


@every_case
def test_keeping_the_error_gives_the_original_logits(host: Host, kind: Kind) -> None:
    model = host.build()
    base = logits_of(model, tokens())
    with splice(model, kind.build(model), error="keep"):
        kept = logits_of(model, tokens())
    torch.testing.assert_close(kept, base, atol=1e-4, rtol=0)


@every_case
def test_freezing_the_error_of_a_run_gives_its_logits(host: Host, kind: Kind) -> None:
    model = host.build()
    base = logits_of(model, tokens())
    with splice(model, kind.build(model), error="freeze", base=tokens()):
        frozen = logits_of(model, tokens())
        other = logits_of(model, tokens(seed=2))
    torch.testing.assert_close(frozen, base, atol=1e-4, rtol=0)
    assert not torch.allclose(other, logits_of(model, tokens(seed=2)), atol=1e-3)


@every_case
def test_dropping_the_error_computes_what_the_transcoders_alone_compute(
    host: Host, kind: Kind
) -> None:
    model = host.build()
    transcoders = kind.build(model)
    expected = by_hand(model, transcoders)
    with splice(model, transcoders):
        dropped = logits_of(model, tokens())
    torch.testing.assert_close(dropped, expected, atol=1e-5, rtol=1e-5)


@every_case
def test_one_wrong_weight_is_seen(host: Host, kind: Kind) -> None:
    model = host.build()
    transcoders = kind.build(model)
    expected = by_hand(model, transcoders)
    first = (
        transcoders
        if isinstance(transcoders, CrossLayerTranscoder)
        else transcoders[kind.layers[0]]
    )
    bias = first.b_dec[0] if isinstance(transcoders, CrossLayerTranscoder) else first.b_dec
    with torch.no_grad():
        bias[3] += 1
    with splice(model, transcoders):
        wrong = logits_of(model, tokens())
    with pytest.raises(AssertionError):
        torch.testing.assert_close(wrong, expected, atol=1e-5, rtol=1e-5)


@every_case
def test_watching_features_changes_nothing_and_shows_them(host: Host, kind: Kind) -> None:
    model = host.build()
    transcoders = kind.build(model)
    layer = kind.layers[-1]
    base = feature_base(kind, layer)
    with splice(model, transcoders) as spliced:
        unwatched = logits_of(model, tokens())
        with torch.no_grad():
            watched, cache = model.run_with_cache(tokens())
        coder = spliced.hooked[layer]._coder
        torch.testing.assert_close(watched, unwatched, atol=1e-5, rtol=1e-5)
        pre, post = cache[f"{base}.hook_pre"], cache[f"{base}.hook_post"]
        assert pre.shape == post.shape == (*tokens().shape, first_cfg(transcoders).n_features)
        torch.testing.assert_close(coder.activate(pre), post)
        torch.testing.assert_close(coder.pre_activations(cache[f"{base}.hook_in"]), pre)


@every_case
def test_leaving_restores_the_model_bitwise(host: Host, kind: Kind) -> None:
    model = host.build()
    before, names = fingerprint(model), list(model.hook_dict)
    hook_names = {name: point.name for name, point in model.hook_dict.items()}
    with splice(model, kind.build(model), error="keep", exclude="special"):
        logits_of(model, tokens())
    assert list(model.hook_dict) == names
    assert {name: point.name for name, point in model.hook_dict.items()} == hook_names
    assert_same(fingerprint(model), before)


@every_host
def test_the_original_mode_is_bitwise_the_original(host: Host) -> None:
    model = host.build()
    base = logits_of(model, tokens())
    with (
        splice(model, Kind("skip", skip=True).build(model)) as spliced,
        spliced.running(Mode.ORIGINAL),
    ):
        assert torch.equal(logits_of(model, tokens()), base)


@every_host
def test_a_stand_in_that_returns_the_mlps_own_output_is_bitwise_invisible(host: Host) -> None:
    model = host.build()
    seen = resolve_host(model)
    base = logits_of(model, tokens())

    class StandIn(torch.nn.Module):
        def __init__(self, mlp: torch.nn.Module) -> None:
            super().__init__()
            self.mlp = mlp

        def forward(self, x: Tensor) -> Tensor:
            return self.mlp(x)

    with ExitStack() as undo:
        for layer in range(seen.n_layers):
            stand_in = StandIn(seen.mlp(layer))
            undo.callback(seen.replace(layer, "mlp", stand_in, hook_points=[]))
        assert torch.equal(logits_of(model, tokens()), base)
    assert torch.equal(logits_of(model, tokens()), base)


# helpers: the slow twin


def by_hand(model: Any, transcoders: Any) -> Tensor:
    """The same computation with plain hooks on the unspliced model and nothing but the definition."""
    host = resolve_host(model)
    features: dict[int, Tensor] = {}
    inputs: dict[int, Tensor] = {}
    with ExitStack() as undo, torch.no_grad():
        for layer in transcoders.layers:
            cfg = first_cfg(transcoders)
            if cfg.write == "resid_mid":
                overwrite_stream_after_attention(host, layer, transcoders[layer], undo)
                continue
            keep_input(host, cfg.read, layer, inputs, undo)
            overwrite(host, cfg.write, layer, output(transcoders, layer, inputs, features), undo)
        return model(tokens(), return_type="logits")


def output(
    transcoders: Any, layer: int, inputs: dict[int, Tensor], features: dict[int, Tensor]
) -> Any:
    def compute(_: Tensor) -> Tensor:
        x = inputs[layer]
        if isinstance(transcoders, CrossLayerTranscoder):
            i = transcoders.layers.index(layer)
            features[layer] = transcoders.encode(layer, x)
            y = transcoders.b_dec[i].clone()
            for source, earlier in enumerate(transcoders.layers[: i + 1]):
                y = y + features[earlier] @ transcoders.W_dec[source][i - source]
            return y if transcoders.W_skip is None else y + x @ transcoders.W_skip[i]
        one = transcoders[layer]
        y = one.encode(x) @ one.W_dec + one.b_dec
        return y if one.W_skip is None else y + x @ one.W_skip

    return compute


def keep_input(
    host: Any, site: str, layer: int, inputs: dict[int, Tensor], undo: ExitStack
) -> None:
    def keep(value: Tensor) -> None:
        inputs[layer] = value.reshape(*value.shape[:2], -1)

    if site == "mlp_in":
        handle = host.mlp(layer).register_forward_pre_hook(lambda _, args: keep(args[0]))
    else:
        handle = host.hook_point(site, layer).register_forward_hook(lambda _, __, out: keep(out))
    undo.callback(handle.remove)


def overwrite(host: Any, site: str, layer: int, compute: Any, undo: ExitStack) -> None:
    module = host.mlp(layer) if site == "mlp_out_raw" else host.hook_point(site, layer)
    handle = module.register_forward_hook(lambda _, __, out: compute(out).reshape(out.shape))
    undo.callback(handle.remove)


def overwrite_stream_after_attention(host: Any, layer: int, sae: Any, undo: ExitStack) -> None:
    """Let attention write what takes the whole stream to the SAE's output."""
    seen: dict[str, Tensor] = {}

    def keep(_: object, __: object, x: Tensor) -> None:
        seen["x"] = x

    def write(_: object, __: object, out: Tensor) -> Tensor:
        return sae.encode(seen["x"] + out) @ sae.W_dec + sae.b_dec - seen["x"]

    undo.callback(host.hook_point("resid_pre", layer).register_forward_hook(keep).remove)
    undo.callback(host.hook_point("attn_out", layer).register_forward_hook(write).remove)


def first_cfg(transcoders: Any) -> Any:
    if isinstance(transcoders, CrossLayerTranscoder):
        return transcoders.cfg
    return transcoders[transcoders.layers[0]].cfg


def feature_base(kind: Kind, layer: int) -> str:
    if kind.read == kind.write:
        return f"{HOOK_NAMES[kind.read].format(layer=layer)}.sae"
    return f"blocks.{layer}.mlp"


def fingerprint(model: Any) -> dict[str, Tensor]:
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    return {**state, "logits": logits_of(model, tokens())}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name
