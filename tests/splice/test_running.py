"""Ways of running a spliced model: excluded positions, padding, generation, bf16, part of the layers."""

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import (
    BATCH,
    BOS,
    D_MODEL,
    FEATURES,
    HAS_HOOKED_TRANSFORMER,
    HOSTS,
    PAD,
    POS,
    VOCAB,
    Host,
    Kind,
    case_id,
    tokens,
)
from tl_transcoders.errors import HookNeverFiredError, ShapeError, SpliceError
from tl_transcoders.splice import HookedTranscoder, splice
from tl_transcoders.transcoders import TopK

pytestmark = pytest.mark.cases
every_host = pytest.mark.parametrize("host", HOSTS, ids=case_id)
some_kinds = pytest.mark.parametrize(
    "kind",
    [
        Kind("topk", TopK(5), skip=True),
        Kind("resid", TopK(5), read="ln2_normalized"),
        Kind("after-post-norm", write="mlp_out"),
        Kind("clt", TopK(5), cross_layer=True),
        Kind("sae", TopK(5), read="resid_pre", write="resid_pre"),
    ],
    ids=case_id,
)
TOPK = Kind("topk", TopK(5))


@every_host
@some_kinds
@pytest.mark.parametrize("error", ["drop", "keep"])
def test_excluded_positions_are_the_original_mlps(host: Host, kind: Kind, error: Any) -> None:
    model = host.build()
    mask = tokens() == BOS
    mask[1, 3] = True
    with torch.no_grad():
        base = model(tokens(), return_type="logits")
        with splice(model, kind.build(model), error=error, exclude=mask):
            logits, cache = model.run_with_cache(tokens())
        post = next(cache[n] for n in cache if n.endswith("hook_post") and "original" not in n)
    assert (post[mask] == 0).all()
    assert (post[~mask] != 0).any()
    # nothing before the first included position has changed
    torch.testing.assert_close(logits[:, 0], base[:, 0], atol=1e-5, rtol=0)
    assert error == "keep" or not torch.allclose(logits[:, 1], base[:, 1], atol=1e-4)


@every_host
@some_kinds
def test_excluding_everything_is_the_original_model(host: Host, kind: Kind) -> None:
    model = host.build()
    everything = torch.ones_like(tokens(), dtype=torch.bool)
    with torch.no_grad():
        base = model(tokens(), return_type="logits")
        with splice(model, kind.build(model), exclude=everything):
            logits = model(tokens(), return_type="logits")
    torch.testing.assert_close(logits, base, atol=1e-5, rtol=0)


@every_host
def test_special_tokens_are_found_by_the_tokenizer(host: Host) -> None:
    model = host.build()
    transcoders = TOPK.build(model)
    with torch.no_grad():
        with splice(model, transcoders, exclude="special"):
            by_name = model(tokens())
        with splice(model, transcoders, exclude=[BOS, PAD, 0]):
            by_id = model(tokens())
        with splice(model, transcoders, exclude=(tokens() == BOS) | (tokens() == 0)):
            by_mask = model(tokens())
    assert torch.equal(by_name, by_id)
    assert torch.equal(by_name, by_mask)


def test_a_mask_of_another_shape_is_refused() -> None:
    model = HOSTS[0].build()
    mask = torch.zeros(2, 5, dtype=torch.bool)
    with (
        splice(model, TOPK.build(model), exclude=mask),
        pytest.raises(ShapeError, match=r"exclude mask: got shape \(2, 5\) for tokens \(3, 7\)"),
    ):
        model(tokens())


@pytest.mark.parametrize("host", [h for h in HOSTS if h.kind == "hooked"], ids=case_id)
def test_left_padding_leaves_the_prompt_alone(host: Host) -> None:
    """HookedTransformer's padding; the Bridge's, an attention mask, is in the next test. None on transformer-lens 4."""
    model = host.build()
    prompt = tokens(1)
    padded = torch.cat([torch.full((1, 3), PAD), prompt], dim=1)
    mask = (padded != PAD).long()
    with splice(model, TOPK.build(model)), torch.no_grad():
        alone = model(prompt)[0, -1]
        beside = model(padded, attention_mask=mask, padding_side="left")[0, -1]
    torch.testing.assert_close(beside, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("host", [h for h in HOSTS if h.kind == "bridge"], ids=case_id)
def test_left_padding_leaves_the_prompt_alone_on_the_bridge(host: Host) -> None:
    model = host.build()
    prompt = tokens(1)
    padded = torch.cat([torch.full((1, 3), PAD), prompt], dim=1)
    mask = (padded != PAD).long()
    with torch.no_grad():
        unspliced = model(padded, attention_mask=mask)[0, -1] - model(prompt)[0, -1]
        with splice(model, TOPK.build(model)):
            alone = model(prompt)[0, -1]
            beside = model(padded, attention_mask=mask)[0, -1]
    # GPT-2's Bridge gives padded prompts other positions when it is not spliced either
    if unspliced.abs().max() < 1e-4:
        torch.testing.assert_close(beside, alone, atol=1e-4, rtol=1e-4)


@every_host
@some_kinds
def test_generation_with_a_cache_equals_generation_without(host: Host, kind: Kind) -> None:
    model = host.build()
    settings: dict[str, Any] = {
        "max_new_tokens": 4,
        "do_sample": False,
        "verbose": False,
        "stop_at_eos": False,
    }
    with splice(model, kind.build(model), exclude="special"), torch.no_grad():
        cached = model.generate(tokens(2), use_past_kv_cache=True, **settings)
        plain = model.generate(tokens(2), use_past_kv_cache=False, **settings)
        by_hand = greedy(model, tokens(2), 4)
    assert torch.equal(cached, plain)
    assert torch.equal(cached, by_hand)


@every_host
@some_kinds
def test_stopping_early_gives_the_residual_and_leaves_no_state(host: Host, kind: Kind) -> None:
    model = host.build()
    with splice(model, kind.build(model)), torch.no_grad():
        logits, cache = model.run_with_cache(tokens())
        stopped = model(tokens(), stop_at_layer=2)
        again = model(tokens())
    torch.testing.assert_close(again, logits, atol=1e-5, rtol=1e-5)
    # HookedTransformer stops before the hook (and the SAE) at resid_pre, the Bridge after it
    before_hook = host.kind == "hooked" and kind.read == "resid_pre"
    expected = cache["blocks.1.hook_resid_post" if before_hook else "blocks.2.hook_resid_pre"]
    torch.testing.assert_close(stopped, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("host", [h for h in HOSTS if not h.processed], ids=case_id)
def test_bfloat16_models_run_with_either_precision_of_transcoders(host: Host) -> None:
    model = host.fresh().to(torch.bfloat16)
    transcoders = Kind("skip", TopK(5), skip=True).build(model)
    for dtype in (torch.float32, torch.bfloat16):
        with splice(model, transcoders.to(dtype), error="keep"), torch.no_grad():
            logits, cache = model.run_with_cache(tokens())
        assert cache["blocks.1.mlp.hook_post"].dtype == dtype
        assert cache["blocks.1.mlp.hook_post"].shape[-1] == FEATURES
        assert cache["blocks.1.mlp.hook_out"].dtype == torch.bfloat16
        base = model(tokens()).float()
        assert (logits.float() - base).norm() < 0.15 * base.norm()


@pytest.mark.parametrize("host", HOSTS[:2], ids=case_id)
@some_kinds
@pytest.mark.parametrize("error", ["drop", "keep"])
def test_autocast_reaches_the_model_and_not_the_transcoders(
    host: Host, kind: Kind, error: Any
) -> None:
    model = host.build()
    with splice(model, kind.build(model), error=error), torch.no_grad():
        expected = model(tokens())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, cache = model.run_with_cache(tokens())
    posts = [value for name, value in cache.items() if value.shape[-1] == FEATURES]
    assert len(posts) >= 3
    assert {post.dtype for post in posts} == {torch.float32}
    assert (logits - expected).norm() < 0.15 * expected.norm()


@pytest.mark.parametrize("host", [h for h in HOSTS if not h.processed], ids=case_id)
@some_kinds
def test_a_spliced_model_is_not_copied(host: Host, kind: Kind) -> None:
    model = host.fresh()
    transcoders = kind.build(model)
    with splice(model, transcoders), torch.no_grad():
        with pytest.raises(SpliceError, match=r"after spliced\.remove"):
            copy.deepcopy(model)
        logits = model(tokens())
    copied = copy.deepcopy(model)
    with splice(copied, transcoders), torch.no_grad():
        torch.testing.assert_close(copied(tokens()), logits)


def test_a_transcoder_that_stands_nowhere_is_copied() -> None:
    hooked = HookedTranscoder(TOPK.build(HOSTS[0].build())[1])
    copied = copy.deepcopy(hooked)
    x = torch.randn(2, 3, 20)
    assert torch.equal(copied(x), hooked(x))
    copied.transcoder.b_dec.data += 1
    assert not torch.equal(copied(x), hooked(x))


@every_host
@pytest.mark.parametrize("layers", [(0, 1, 2), (1, 2)])
def test_starting_midway_is_refused_where_earlier_features_are_needed(
    host: Host, layers: tuple[int, ...]
) -> None:
    if host.kind == "bridge" and HAS_HOOKED_TRANSFORMER:
        pytest.skip("the Bridge of transformer-lens 3.9 knows no start_at_layer")
    model = host.build()
    clt = Kind("clt", cross_layer=True, layers=layers).build(model)
    with torch.no_grad(), splice(model, clt):
        logits, cache = model.run_with_cache(tokens())
        model(tokens(seed=2), stop_at_layer=2)
        for start in range(3):
            residual = cache[f"blocks.{start}.hook_resid_pre"]
            if start > layers[0]:
                with pytest.raises(SpliceError, match=r"no start_at_layer"):
                    model(residual, start_at_layer=start)
            elif start > 0:
                found = model(residual, start_at_layer=start)
                torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-5)


@every_host
@pytest.mark.parametrize("kind", [Kind("clt", TopK(5), cross_layer=True), TOPK], ids=case_id)
def test_a_pass_does_not_mix_with_one_of_another_thread(host: Host, kind: Kind) -> None:
    model = host.build()
    exclude = None if kind.cross_layer else list(range(3, 30))
    with splice(model, kind.build(model), exclude=exclude), torch.no_grad():
        expected = [model(tokens(seed=seed)) for seed in (1, 2)]
        found = run_within(model, tokens(seed=1), tokens(seed=2))
    for logits, other in zip(found, expected, strict=True):
        torch.testing.assert_close(logits, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("host", [h for h in HOSTS if h.architecture == "gpt2"], ids=case_id)
def test_a_tapped_pass_that_another_thread_disturbs_raises(host: Host) -> None:
    model = host.build()
    with (
        splice(model, Kind("resid_mid", TopK(5), read="resid_mid").build(model)),
        torch.no_grad(),
        pytest.raises(HookNeverFiredError, match="in one thread"),
    ):
        run_within(model, tokens(seed=1), tokens(seed=2))


def run_within(model: Any, outer: Tensor, inner: Tensor) -> list[Tensor]:
    """Logits of two passes, the second of which runs in another thread while the first is in block 1."""
    found: list[Tensor] = []

    def run_inner() -> None:
        with torch.no_grad():
            found.append(model(inner))

    def enter(_: Any, __: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=run_inner)
            thread.start()
            thread.join()

    handle = model.blocks[1].register_forward_pre_hook(enter)
    try:
        found.insert(0, model(outer))
    finally:
        handle.remove()
    return found


def test_embeddings_in_place_of_tokens_are_refused_with_exclude() -> None:
    model = HOSTS[0].build()
    with (
        splice(model, TOPK.build(model), exclude="special") as spliced,
        pytest.raises(HookNeverFiredError, match="did not call the token embedding"),
    ):
        spliced.hooked[0](torch.zeros(1, 2, 20))


@pytest.mark.parametrize(
    "run",
    [
        lambda model, value, **where: model(value, **where),
        lambda model, value, **where: model.run_with_hooks(value, fwd_hooks=[], **where),
        lambda model, value, **where: model.run_with_cache(value, **where)[0],
    ],
    ids=["call", "run_with_hooks", "run_with_cache"],
)
@pytest.mark.parametrize("before", ["run", "stopped", "generated"])
@pytest.mark.parametrize("host", [h for h in HOSTS if h.architecture == "gpt2"], ids=case_id)
def test_excluded_tokens_are_never_those_of_an_earlier_pass(
    host: Host, before: str, run: Any
) -> None:
    model = host.build()
    residual = torch.zeros(BATCH, POS, D_MODEL)
    with torch.no_grad(), splice(model, TOPK.build(model), exclude="special"):
        match before:
            case "run":
                model(tokens())
            case "stopped":
                model(tokens(), stop_at_layer=1)
            case _:
                model.generate(tokens(), max_new_tokens=2, verbose=False, stop_at_eos=False)
        # transformer-lens 3.9's Bridge cannot start midway at all
        with pytest.raises((HookNeverFiredError, NotImplementedError)):
            run(model, residual, start_at_layer=1)
        assert run(model, tokens()).shape == (BATCH, POS, VOCAB)


@every_host
def test_the_models_own_forward_is_back_after_splices_end_in_any_order(host: Host) -> None:
    model = host.build()
    first = splice(model, Kind("a", TOPK.activation, layers=(0,)).build(model), exclude="special")
    second = splice(model, Kind("b", TOPK.activation, layers=(1,)).build(model), exclude="special")
    first.remove()
    with pytest.raises(HookNeverFiredError):
        model.blocks[1].mlp(torch.zeros(1, 2, D_MODEL))
    second.remove()
    assert "forward" not in vars(model)


def greedy(model: Any, prompt: Tensor, n: int) -> Tensor:
    for _ in range(n):
        following = model(prompt, return_type="logits")[:, -1].argmax(-1, keepdim=True)
        prompt = torch.cat([prompt, following], dim=1)
    return prompt
