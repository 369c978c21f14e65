"""The laws of the splice on SmolLM2-135M and Gemma-3-270M."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from examples.real_models import gemma3, load_bridge, smollm2
from tests.cases import Kind, randomise
from tl_transcoders.hosts import resolve_host
from tl_transcoders.transcoders import CrossLayerTranscoder, TopK

pytestmark = [pytest.mark.real, pytest.mark.cases]
PROMPT = "The capital of France is"
MODELS = {"smollm2": smollm2, "gemma3": gemma3}
KINDS = [
    Kind("skip", TopK(5), skip=True),
    Kind("ln2_normalized", TopK(5), read="ln2_normalized"),
    Kind("after-post-norm", read="resid_mid", write="mlp_out"),
    Kind("clt", TopK(5), cross_layer=True),
    Kind("sae", TopK(5), read="resid_post", write="resid_post"),
]


@pytest.fixture(scope="module", params=["smollm2", "gemma3", "smollm2-processed"])
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    name, _, processed = request.param.partition("-")
    bridge = load_bridge(MODELS[name]())
    if processed:
        bridge.enable_compatibility_mode(disable_warnings=True)
    with torch.no_grad():
        yield bridge


def prompts(model: Any) -> Tensor:
    return model.to_tokens([PROMPT, "Two plus two equals four"], prepend_bos=True)[:, :6]


def close(got: Tensor, expected: Tensor, *, tolerance: float = 1e-4) -> None:
    """Compared as log-probabilities, whose scale is the same for every model."""
    torch.testing.assert_close(
        got.log_softmax(-1), expected.log_softmax(-1), atol=tolerance, rtol=0
    )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_laws(model: Any, kind: Kind) -> None:
    tokens = prompts(model)
    n_layers = resolve_host(model).n_layers
    layers = tuple(range(n_layers))
    whole = Kind(**{**vars(kind), "layers": layers[:4] if kind.cross_layer else layers})
    transcoders = small(whole.build(model))
    base, parameters = model(tokens), [p.detach().clone() for p in model.parameters()]
    names = list(model.hook_dict)
    with tlt.splice(model, transcoders, error="keep"):
        close(model(tokens), base, tolerance=1e-3)
    with tlt.splice(model, transcoders, error="freeze", base=tokens):
        close(model(tokens), base, tolerance=1e-3)
    with tlt.splice(model, transcoders, exclude=torch.ones_like(tokens, dtype=torch.bool)):
        close(model(tokens), base)
    with tlt.splice(model, transcoders):
        dropped = model(tokens)
        watched, cache = model.run_with_cache(tokens)
    torch.testing.assert_close(watched, dropped, atol=1e-2, rtol=1e-3)
    assert any(name.endswith("hook_post") and cache[name].shape[-1] == 37 for name in cache)
    assert (dropped - base).abs().max() > 0.1
    assert list(model.hook_dict) == names
    assert torch.equal(model(tokens), base)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True))


def test_generation_uses_the_transcoders_with_and_without_a_cache(model: Any) -> None:
    tokens = prompts(model)[:1]
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "verbose": False}
    transcoders = small(Kind("one", TopK(5), layers=(3,)).build(model))
    with tlt.splice(model, transcoders, exclude=[int(tokens[0, 0])]):
        cached = model.generate(tokens, use_past_kv_cache=True, stop_at_eos=False, **settings)
        plain = model.generate(tokens, use_past_kv_cache=False, stop_at_eos=False, **settings)
    assert torch.equal(cached, plain)


def test_a_sparse_autoencoder_and_a_transcoder_nest(model: Any) -> None:
    tokens = prompts(model)
    base = model(tokens)
    transcoder = small(Kind("t", TopK(5), layers=(3,)).build(model))
    sae = small(Kind("s", read="resid_post", write="resid_post", layers=(3,)).build(model))
    with tlt.splice(model, transcoder, error="keep"), tlt.splice(model, sae, error="keep"):
        close(model(tokens), base, tolerance=1e-3)


def small(transcoders: Any) -> Any:
    """The transcoders with decoders scaled down, so that a kept error is not the difference of large numbers."""
    modules = (
        [transcoders] if isinstance(transcoders, CrossLayerTranscoder) else transcoders.values()
    )
    with torch.no_grad():
        for module in modules:
            for name, parameter in module.named_parameters():
                if "W_dec" in name:
                    parameter.mul_(0.01)
            randomise(module)
    return transcoders
