"""Transcoders of one world in the other: a raw and a processed model with the same transcoders agree."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import HAS_HOOKED_TRANSFORMER, HOSTS, Host, Kind, case_id, tokens
from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts import NormWeights, resolve_host
from tl_transcoders.splice import check, norms_of, splice
from tl_transcoders.transcoders import (
    CrossLayerTranscoder,
    JumpReLU,
    TopK,
    Transcoder,
    TranscoderSet,
)

pytestmark = pytest.mark.cases
RAW = [host for host in HOSTS if not host.processed]
KINDS = [
    Kind("relu-skip", skip=True),
    Kind("ln2_normalized", TopK(5), read="ln2_normalized"),
    Kind("resid_mid", JumpReLU(), skip=True, read="resid_mid", write="mlp_out"),
    Kind("clt", TopK(5), skip=True, cross_layer=True, layers=(0, 2), write="mlp_out"),
    Kind("clt-resid_mid", cross_layer=True, read="resid_mid"),
    Kind("sae-resid_pre", read="resid_pre", write="resid_pre"),
    Kind("sae-mlp_out", TopK(5), read="mlp_out", write="mlp_out"),
    Kind("sae-mlp_out_raw", TopK(5), read="mlp_out_raw", write="mlp_out_raw"),
    Kind("sae-attn_out", read="attn_out", write="attn_out"),
]
CASES = [
    (host, kind)
    for host in RAW
    for kind in KINDS
    if not (host.architecture == "neox" and kind.read == "resid_mid")
    and not (host.architecture == "gemma3" and kind.name == "sae-mlp_out_raw")
]
both_worlds = pytest.mark.parametrize(("host", "kind"), CASES, ids=case_id)
every_raw = pytest.mark.parametrize("host", RAW, ids=case_id)


@both_worlds
def test_trained_on_raw_used_on_processed(host: Host, kind: Kind) -> None:
    raw, processed = host.build(), processed_twin(host)
    transcoders = kind.build(raw)
    if needs_no_mean(raw, kind):
        without_mean(transcoders)
    before = fingerprint(transcoders)
    close(
        spliced(processed, transcoders, norms=norms(host)),
        spliced(raw, transcoders),
    )
    assert all(torch.equal(a, b) for a, b in zip(before, fingerprint(transcoders), strict=True))


@both_worlds
def test_trained_on_processed_used_on_raw(host: Host, kind: Kind) -> None:
    raw, processed = host.build(), processed_twin(host)
    transcoders = kind.build(processed)
    if resolve_host(raw).centred:
        centre_writes_by_hand(transcoders)
    before = fingerprint(transcoders)
    close(spliced(raw, transcoders), spliced(processed, transcoders))
    assert all(torch.equal(a, b) for a, b in zip(before, fingerprint(transcoders), strict=True))


@both_worlds
@pytest.mark.parametrize("to_processed", [True, False], ids=["to-processed", "to-raw"])
def test_kept_error_is_the_original_model(host: Host, kind: Kind, to_processed: bool) -> None:
    raw, processed = host.build(), processed_twin(host)
    home, away = (raw, processed) if to_processed else (processed, raw)
    transcoders = kind.build(home)
    if to_processed and needs_no_mean(raw, kind):
        without_mean(transcoders)
    with torch.no_grad():
        base = away(tokens(), return_type="logits")
    close(spliced(away, transcoders, error="keep", norms=norms(host)), base)


@every_raw
def test_a_wrong_gain_is_seen(host: Host) -> None:
    """The comparison fails when one gain is off."""
    raw, processed = host.build(), processed_twin(host)
    transcoders = Kind("relu").build(raw)
    wrong = dict(norms(host))
    gain = wrong[1].gain.clone()
    gain[3] += 0.5
    wrong[1] = NormWeights(gain, wrong[1].bias)
    with pytest.raises(AssertionError):
        close(spliced(processed, transcoders, norms=wrong), spliced(raw, transcoders))


@every_raw
def test_weights_that_stay_are_shared(host: Host) -> None:
    raw, processed = host.build(), processed_twin(host)
    transcoders = Kind("skip", JumpReLU(), skip=True).build(processed)
    with splice(raw, transcoders) as installed:
        fitted = installed.transcoders
        assert isinstance(transcoders, TranscoderSet)
        assert isinstance(fitted, TranscoderSet)
        assert fitted[1].cfg == replace(transcoders[1].cfg, read="ln2_normalized", folded=False)
        for (name, a), b in zip(
            transcoders[1].named_parameters(), fitted[1].parameters(), strict=True
        ):
            assert a.data_ptr() == b.data_ptr(), name
            assert not b.requires_grad
    with splice(raw, Kind("skip", skip=True).build(raw)) as installed:
        assert installed.transcoders is not transcoders


@every_raw
def test_the_norm_is_what_the_model_computes(host: Host) -> None:
    """mlp_in = ln2_normalized · gain (+ bias)."""
    model = host.build()
    seen = resolve_host(model)
    with seen.recording([(1, "ln2_normalized"), (1, "mlp_in")]) as store:
        seen.run(tokens())
    norm = norms_of(model)[1]
    expected = store[1, "ln2_normalized"] * norm.gain
    if norm.bias is not None:
        expected = expected + norm.bias
    torch.testing.assert_close(store[1, "mlp_in"], expected, atol=1e-5, rtol=0)


@every_raw
def test_without_the_gain_it_is_refused(host: Host) -> None:
    raw, processed = host.build(), processed_twin(host)
    transcoders = Kind("relu").build(raw)
    names = list(processed.hook_dict)
    with pytest.raises(SpliceError, match=r"from which the gain of ln2 is gone.*norms_of\(model\)"):
        splice(processed, transcoders)
    narrow = {layer: NormWeights(torch.ones(3)) for layer in range(3)}
    with pytest.raises(SpliceError, match="a gain of ln2 of width 3 for a model of width 20"):
        splice(processed, transcoders, norms=narrow)
    with pytest.raises(SpliceError, match="a processed model, whose gains are gone"):
        norms_of(processed)
    assert list(processed.hook_dict) == names


@every_raw
@pytest.mark.parametrize("kind", [Kind("z", read="z", write="z")], ids=case_id)
def test_z_is_refused(host: Host, kind: Kind) -> None:
    with pytest.raises(SpliceError, match="processing moves value biases out of z"):
        splice(processed_twin(host), kind.build(host.build()))


@every_raw
def test_an_sae_of_what_the_mlp_returns(host: Host) -> None:
    model = host.build()
    saes = Kind("sae", read="mlp_out_raw", write="mlp_out_raw").build(model)
    if host.architecture == "gemma3":
        with pytest.raises(SpliceError, match="before the norm that follows it"):
            splice(model, saes)
        with pytest.raises(SpliceError, match="before the norm that follows it"):
            check(model, saes, tokens())
        return
    for row in check(model, saes, tokens()).layers:
        assert row.stated.read == "mlp_out_raw"
        assert "mlp_out" not in {fit.read for fit in row.others if not fit.folded}
    with splice(model, saes) as made:
        fitted = made.transcoders[1].cfg
        assert (fitted.read, fitted.write) == ("mlp_out", "mlp_out")
        with pytest.raises(SpliceError, match="already spliced"):
            check(model, saes, tokens())


@pytest.mark.parametrize("host", [h for h in RAW if h.architecture == "gpt2"], ids=case_id)
def test_a_mean_that_is_gone_is_refused(host: Host) -> None:
    transcoders = Kind("resid_mid", read="resid_mid").build(host.build())
    with pytest.raises(SpliceError, match="reads the mean over d_model"):
        splice(processed_twin(host), transcoders)


@pytest.mark.skipif(not HAS_HOOKED_TRANSFORMER, reason="the Bridge does both or neither")
@pytest.mark.parametrize("read", ["mlp_in", "resid_mid"])
def test_gains_folded_and_means_kept(read: Any) -> None:
    """A model processed by half: its gains are gone, its residual stream still has a mean."""
    raw = Host("gpt2", "hooked", False)
    half = raw.fresh()
    half.process_weights_(fold_ln=True, center_writing_weights=False, center_unembed=False)
    assert (resolve_host(half).folded, resolve_host(half).mean_free) == (True, False)
    ours = Kind("k", read=read).build(raw.build())
    close(spliced(half, ours, norms=norms(raw)), spliced(raw.build(), ours))
    theirs = Kind("k", read=read).build(processed_twin(raw))
    centre_writes_by_hand(theirs)
    close(spliced(half, theirs), spliced(processed_twin(raw), theirs))


# helpers


def processed_twin(host: Host) -> Any:
    return replace(host, processed=True).build()


@cache
def norms(host: Host) -> dict[int, NormWeights]:
    return norms_of(host.build())


def spliced(model: Any, transcoders: Any, **options: Any) -> Tensor:
    with torch.no_grad(), splice(model, transcoders, **options):
        return model(tokens(), return_type="logits")


def close(got: Tensor, expected: Tensor) -> None:
    """As log-probabilities: processing also centres the unembedding."""
    torch.testing.assert_close(got.log_softmax(-1), expected.log_softmax(-1), atol=2e-4, rtol=0)


def needs_no_mean(raw: Any, kind: Kind) -> bool:
    return resolve_host(raw).centred and kind.read not in ("mlp_in", "ln2_normalized")


def modules(transcoders: Any) -> list[Any]:
    if isinstance(transcoders, CrossLayerTranscoder):
        return [transcoders]
    return list(transcoders.values())


def weights(transcoders: Any, *names: str) -> list[Tensor]:
    found: list[Tensor] = []
    for module in modules(transcoders):
        assert isinstance(module, Transcoder | CrossLayerTranscoder)
        found += [p for name, p in module.named_parameters() if name.split(".")[0] in names]
    return found


def without_mean(transcoders: Any) -> None:
    for weight in weights(transcoders, "W_enc", "W_skip"):
        weight.sub_(weight.mean(0))


def centre_writes_by_hand(transcoders: Any) -> None:
    """A processed LayerNorm model's own output is centred, and so is what is trained on it."""
    for weight in weights(transcoders, "W_dec", "b_dec", "W_skip"):
        weight.sub_(weight.mean(-1, keepdim=True))


def fingerprint(transcoders: Any) -> list[Tensor]:
    return [p.clone() for module in modules(transcoders) for p in module.parameters()]
