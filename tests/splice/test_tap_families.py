"""The right tap of every published family: a transcoder equal to the MLP has FVU 0 there, and only there."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_transcoders as tlt
from tests.cases import HAS_HOOKED_TRANSFORMER, tokenizer, tokens
from tests.splice.exact_models import FEATURES, N_LAYERS, D, Weights, boot, exact_model
from tl_transcoders._types import Site
from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts import NormWeights
from tl_transcoders.hosts.boot import boot_hooked_gpt2
from tl_transcoders.splice import norms_of, retap
from tl_transcoders.transcoders import (
    Activation,
    CrossLayerConfig,
    CrossLayerTranscoder,
    JumpReLU,
    ReLU,
    TopK,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)

pytestmark = pytest.mark.cases
RELU = ReLU()


@dataclass(frozen=True)
class Family:
    """A published family, the architecture it was trained on, and its tap (table 9 of the format notes)."""

    name: str
    architecture: str
    read: Site
    write: Site
    folded: bool = False
    activation: Activation = RELU
    wrong: tuple[tuple[Site, Site, bool], ...] = ()

    def __str__(self) -> str:
        return self.name


FAMILIES = [
    Family(
        "dunefsky-gpt2",
        "gpt2",
        "ln2_normalized",
        "mlp_out",
        folded=True,
        wrong=(("mlp_in", "mlp_out", False), ("resid_mid", "mlp_out", True)),
    ),
    Family(
        "gemma-scope",
        "gemma2",
        "ln2_normalized",
        "mlp_out",
        activation=JumpReLU(),
        wrong=(
            ("mlp_in", "mlp_out", False),
            ("ln2_normalized", "mlp_out_raw", False),
            ("resid_mid", "mlp_out", False),
        ),
    ),
    Family(
        "gemma-scope-2",
        "gemma3",
        "mlp_in",
        "mlp_out",
        activation=JumpReLU(),
        wrong=(
            ("ln2_normalized", "mlp_out", False),
            ("mlp_in", "mlp_out_raw", False),
            ("mlp_in", "mlp_out", True),
        ),
    ),
    Family(
        "sparsify-llama",
        "llama",
        "mlp_in",
        "mlp_out_raw",
        activation=TopK(FEATURES),
        wrong=(("ln2_normalized", "mlp_out_raw", False), ("resid_mid", "mlp_out_raw", False)),
    ),
    Family(
        "mwhanna-qwen3",
        "qwen3",
        "mlp_in",
        "mlp_out",
        wrong=(("ln2_normalized", "mlp_out", False), ("mlp_in", "mlp_out", True)),
    ),
]
families = pytest.mark.parametrize("family", FAMILIES, ids=str)
WRONG = [(family, tap) for family in FAMILIES for tap in family.wrong]
worlds = pytest.mark.parametrize("processed", [False, True], ids=["raw", "processed"])


@families
@worlds
def test_the_right_tap_has_fvu_0(family: Family, processed: bool) -> None:
    model, transcoders = bridge(family.architecture, processed), exact(family)
    report = tlt.check(model, transcoders, tokens(), norms=norms(family.architecture))
    assert report.ok
    assert [row.layer for row in report.layers] == list(range(N_LAYERS))
    for row in report.layers:
        assert row.stated.fvu < 1e-9
        assert len(row.others) >= 2
        assert all(other.fvu > 0.02 for other in row.others)
    report.raise_if_wrong()


@families
@worlds
def test_spliced_at_the_right_tap_the_logits_stay(family: Family, processed: bool) -> None:
    model = bridge(family.architecture, processed)
    with torch.no_grad():
        base = model(tokens(), return_type="logits").log_softmax(-1)
        with tlt.splice(model, exact(family), norms=norms(family.architecture), check=tokens()):
            logits = model(tokens(), return_type="logits").log_softmax(-1)
    torch.testing.assert_close(logits, base, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("family", "tap"), WRONG, ids=str)
@worlds
def test_a_wrong_tap_is_reported_and_the_right_one_named(
    family: Family, tap: tuple[Site, Site, bool], processed: bool
) -> None:
    model = bridge(family.architecture, processed)
    read, write, folded = tap
    stated = retap(exact(family), read=read, write=write, folded=folded)
    report = tlt.check(model, stated, tokens(), norms=norms(family.architecture))
    assert {row.verdict for row in report.layers} == {"another tap fits"}
    with pytest.raises(SpliceError, match=r"tap check: got FVU .* at the stated tap .*retap"):
        tlt.splice(model, stated, norms=norms(family.architecture), check=tokens())
    best = report.layers[1].best
    assert best.fvu < 1e-9
    mended = retap(stated, read=best.read, write=best.write, folded=best.folded)
    tlt.splice(model, mended, norms=norms(family.architecture), check=tokens()).remove()


@families
def test_one_perturbed_weight_is_seen(family: Family) -> None:
    transcoders = exact(family)
    with torch.no_grad():
        transcoders[1].W_dec[3, 2] += 3
    report = tlt.check(bridge(family.architecture, False), transcoders, tokens())
    assert report.layers[0].stated.fvu < 1e-9
    assert report.layers[1].stated.fvu > 1e-4


@worlds
def test_a_skip_with_fewer_features_at_gemma_scope_2s_tap(processed: bool) -> None:
    """relu(z) − relu(−z) = z, so W_skip alone is the MLP of the Gemma models here."""
    model, (_, layers) = bridge("gemma3", processed), build("gemma3")
    cfg = TranscoderConfig(
        layer=1, d_in=D, d_out=D, n_features=5, skip=True, read="mlp_in", write="mlp_out"
    )
    transcoder = Transcoder.init(cfg, seed=0).requires_grad_(False)
    w = layers[1]
    transcoder.W_dec.zero_()
    assert transcoder.W_skip is not None
    transcoder.W_skip.copy_(w.V[:D] * w.post_gain / w.gain[:, None])
    report = tlt.check(model, transcoder, tokens(), norms=norms("gemma3"))
    assert report.layers[0].stated.fvu < 1e-9
    transposed = Transcoder(
        cfg,
        W_enc=transcoder.W_enc,
        b_enc=transcoder.b_enc,
        W_dec=transcoder.W_dec,
        b_dec=transcoder.b_dec,
        W_skip=transcoder.W_skip.T.clone(),
    ).requires_grad_(False)
    assert not tlt.check(model, transposed, tokens(), norms=norms("gemma3")).ok


@worlds
def test_a_cross_layer_transcoder(processed: bool) -> None:
    """Each layer's own decoder is the MLP, and layer 0 writes to layer 1 what layer 1's bias takes back."""
    model, (_, layers) = bridge("llama", processed), build("llama")
    cfg = CrossLayerConfig(layers=(0, 1), d_in=D, d_out=D, n_features=FEATURES + 1)
    clt = CrossLayerTranscoder.init(cfg, seed=0).requires_grad_(False)
    for i, w in enumerate(layers):
        clt.W_enc[i].zero_()[:, :FEATURES].copy_(w.W / w.gain[:, None])
        clt.b_enc[i].zero_()[FEATURES] = 1
        clt.W_dec[i].zero_()[0, :FEATURES].copy_(w.V)
    clt.W_dec[0][1, FEATURES] = 7
    clt.b_dec[1].fill_(-7)
    report = tlt.check(model, clt, tokens(), norms=norms("llama"))
    assert report.ok
    assert max(row.stated.fvu for row in report.layers) < 1e-9
    wrong = retap(clt, read="ln2_normalized")
    report = tlt.check(model, wrong, tokens(), norms=norms("llama"))
    assert [row.verdict for row in report.layers] == ["another tap fits"] * 2
    assert report.layers[1].best.read == "mlp_in"


@pytest.mark.skipif(
    not HAS_HOOKED_TRANSFORMER, reason="transformer-lens 4 has no HookedTransformer"
)
@worlds
def test_dunefsky_on_a_hooked_transformer(processed: bool, tmp_path: Path) -> None:
    build("gpt2")[0].save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = boot_hooked_gpt2(tmp_path, processed=processed)
    family = FAMILIES[0]
    report = tlt.check(model, exact(family), tokens())
    assert max(row.stated.fvu for row in report.layers) < 1e-9
    with torch.no_grad():
        base = model(tokens()).log_softmax(-1)
        with tlt.splice(model, exact(family), check=tokens()):
            logits = model(tokens()).log_softmax(-1)
    torch.testing.assert_close(logits, base, atol=1e-4, rtol=0)
    wrong = retap(exact(family), read="resid_mid")
    assert tlt.check(model, wrong, tokens()).layers[1].verdict == "another tap fits"


# helpers


@cache
def build(architecture: str) -> tuple[Any, list[Weights]]:
    return exact_model(architecture)


@cache
def bridge(architecture: str, processed: bool) -> Any:
    return boot(exact_model(architecture)[0], architecture, processed=processed)


@cache
def norms(architecture: str) -> dict[int, NormWeights]:
    return norms_of(bridge(architecture, False))


def exact(family: Family) -> TranscoderSet:
    """Transcoders in the convention of the family, written out from the MLPs."""
    return TranscoderSet(
        {i: _exact(family, i, weights) for i, weights in enumerate(build(family.architecture)[1])}
    )


def _exact(family: Family, layer: int, w: Weights) -> Transcoder:
    cfg = TranscoderConfig(
        layer=layer,
        d_in=D,
        d_out=D,
        n_features=FEATURES,
        activation=family.activation,
        read=family.read,
        write=family.write,
        folded=family.folded,
    )
    post_gain = family.read == "mlp_in" and not family.folded
    W, b = w.W, w.b
    if post_gain:
        W = w.W / w.gain[:, None]
        b = w.b - w.bias @ W
    V, b_out = w.V.clone(), w.b_out.clone()
    if family.write == "mlp_out":
        V, b_out = V * w.post_gain, b_out * w.post_gain
    if family.folded:
        V, b_out = V - V.mean(-1, keepdim=True), b_out - b_out.mean()
    jump = isinstance(family.activation, JumpReLU)
    return Transcoder(
        cfg,
        W_enc=W,
        b_enc=b,
        W_dec=V,
        b_dec=b_out,
        threshold=torch.zeros(FEATURES) if jump else None,
    ).requires_grad_(False)
