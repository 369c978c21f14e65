"""`check`: the definition, what is left alone, what is refused, and how a report reads."""

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console

import tl_transcoders as tlt
from tests.cases import HOSTS, Host, Kind, case_id, tokens
from tl_transcoders.errors import ConfigError, ShapeError, SpliceError
from tl_transcoders.hosts import resolve_host
from tl_transcoders.splice import LayerTaps, TapFit, TapReport, norms_of, retap
from tl_transcoders.splice.sample import sample_tokens
from tl_transcoders.transcoders import TopK, Transcoder

pytestmark = pytest.mark.cases
every_host = pytest.mark.parametrize("host", HOSTS, ids=case_id)
TOPK = Kind("topk", TopK(5), skip=True)
SAE = Kind("sae", TopK(5), read="resid_post", write="resid_post")
CLT = Kind("clt", cross_layer=True)


@every_host
def test_the_definition(host: Host) -> None:
    model = host.build()
    seen, transcoders = resolve_host(model), TOPK.build(model)
    report = tlt.check(model, transcoders, tokens())
    with seen.recording([(1, "mlp_in"), (1, "mlp_out_raw")]) as store:
        seen.run(tokens())
    x, y = (store[1, site][:, 1:].flatten(0, 1) for site in ("mlp_in", "mlp_out_raw"))
    y_hat = transcoders[1](x)
    if seen.centred:
        y, y_hat = y - y.mean(-1, keepdim=True), y_hat - y_hat.mean(-1, keepdim=True)
    fvu = (y - y_hat).square().sum() / (y - y.mean(0)).square().sum()
    assert report.layers[1].stated.fvu == pytest.approx(fvu.item(), rel=1e-4)
    assert (report.n_tokens, report.skipped) == (18, 1)


@every_host
@pytest.mark.parametrize("kind", [TOPK, SAE, CLT, Kind("c", read="ln2_normalized")], ids=case_id)
def test_every_tap_is_tried_once_and_the_model_left_alone(host: Host, kind: Kind) -> None:
    model = host.build()
    base, names = model(tokens()).detach(), list(model.hook_dict)
    hooks = sum(len(h._forward_hooks) for h in model.hook_dict.values())
    report = tlt.check(model, kind.build(model), tokens())
    assert not report.ok  # random weights explain nothing
    for row in report.layers:
        tried = [(fit.read, fit.write, fit.folded) for fit in (row.stated, *row.others)]
        assert len(set(tried)) == len(tried)
        reads = {"ln2_normalized" if (r, f) == ("mlp_in", True) else r for r, _, f in tried}
        if kind is SAE:
            assert reads >= {"resid_pre", "resid_post", "mlp_out", "attn_out"}
        else:
            assert reads >= {"ln2_normalized"} | ({"mlp_in"} if not host.processed else set())
    assert torch.equal(model(tokens()), base)
    assert list(model.hook_dict) == names
    assert sum(len(h._forward_hooks) for h in model.hook_dict.values()) == hooks


@every_host
def test_the_users_hooks_sleep(host: Host) -> None:
    model, fired = host.fresh(), []
    transcoders = TOPK.build(model)
    expected = tlt.check(model, transcoders, tokens())

    def disturb(value: Any, hook: Any) -> Any:
        fired.append(hook.name)
        return value * 3

    model.add_hook("blocks.0.hook_resid_pre", disturb)
    assert tlt.check(model, transcoders, tokens()) == expected
    assert not fired
    model(tokens())
    assert fired


def test_skipped_positions_do_not_count() -> None:
    """BOS is given a huge embedding, as in models with attention sinks."""
    model = HOSTS[0].fresh()
    transcoders = TOPK.build(model)
    one = transcoders[0]
    assert isinstance(one, Transcoder)
    all_rows = tlt.check(model, one, tokens(), skip=0)
    assert all_rows.n_tokens == 21
    assert all_rows.layers[0].stated.fvu != tlt.check(model, one, tokens()).layers[0].stated.fvu


@every_host
def test_splice_with_check_refuses_with_the_model_untouched(host: Host) -> None:
    model = host.build()
    base, names = model(tokens()).detach(), list(model.hook_dict)
    transcoders = TOPK.build(model)
    for check in (True, tokens()):
        with pytest.raises(SpliceError, match=r"tap check: got FVU .*No tap fits \(the best is "):
            tlt.splice(model, transcoders, check=check)
    assert list(model.hook_dict) == names
    assert torch.equal(model(tokens()), base)
    tlt.splice(model, transcoders).remove()


def test_a_spliced_model_is_not_checked_against_itself() -> None:
    model = HOSTS[0].build()
    transcoders = TOPK.build(model)
    with (
        tlt.splice(model, transcoders),
        pytest.raises(SpliceError, match="a place that is already spliced"),
    ):
        tlt.check(model, transcoders, tokens())


def test_refusals() -> None:
    model = HOSTS[0].build()
    transcoders = TOPK.build(model)
    with pytest.raises(ShapeError, match="3 prompts of 1 tokens, the first 1 of which"):
        tlt.check(model, transcoders, tokens()[:, :1])
    with pytest.raises(SpliceError, match="layer 7: got a model of 3 layers"):
        tlt.check(model, Transcoder.init(replace(transcoders[0].cfg, layer=7), seed=0), tokens())
    processed = next(h for h in HOSTS if h.processed).build()
    with pytest.raises(SpliceError, match="the gain of ln2 is gone"):
        tlt.check(processed, transcoders, tokens())


def test_on_a_processed_model_the_gain_opens_one_more_tap() -> None:
    raw, processed = (next(h for h in HOSTS if h.processed is p) for p in (False, True))
    transcoders = TOPK.build(processed.build())
    without = tlt.check(processed.build(), transcoders, tokens())
    given = tlt.check(processed.build(), transcoders, tokens(), norms=norms_of(raw.build()))
    more = {(f.read, f.folded) for f in given.layers[0].others}
    assert more - {(f.read, f.folded) for f in without.layers[0].others} == {("mlp_in", False)}


@every_host
def test_the_sample_is_ordinary_tokens_led_by_bos(host: Host) -> None:
    seen = resolve_host(host.build())
    sample = sample_tokens(seen)
    assert sample.numel() > 200
    assert sample.shape[1] <= 64
    assert (sample[:, 0] == seen.tokenizer.bos_token_id).all()
    # the tiny tokenizer knows none of the words, so its own were drawn
    assert len(sample[:, 1:].unique()) > 20
    assert int(sample[:, 1:].max()) < 51


def test_no_tokenizer_no_sample() -> None:
    model = HOSTS[0].fresh()
    model.tokenizer = None
    with pytest.raises(
        ConfigError, match=r"check=True: got a model without a tokenizer.*check=tok"
    ):
        tlt.splice(model, TOPK.build(model), check=True)


def test_retap_shares_the_weights() -> None:
    transcoders = TOPK.build(HOSTS[0].build())
    moved = retap(transcoders, read="ln2_normalized", write="mlp_out", folded=True)
    cfg = moved[2].cfg
    assert (cfg.read, cfg.write, cfg.folded) == ("ln2_normalized", "mlp_out", True)
    for a, b in zip(transcoders[2].parameters(), moved[2].parameters(), strict=True):
        assert a.data_ptr() == b.data_ptr()
    with pytest.raises(ConfigError, match="read='mlp_in', write='resid_post'"):
        retap(transcoders, write="resid_post")


STATED = TapFit(read="mlp_in", write="mlp_out", folded=False, fvu=0.5)
OTHER = TapFit(read="ln2_normalized", write="mlp_out", folded=False, fvu=0.3)


@pytest.mark.parametrize(
    ("stated", "other", "verdict"),
    [
        (0.5, 0.3, "another tap fits"),
        (0.5, 0.4, "fits"),
        (1e-12, 1e-15, "fits"),
        (0.95, 0.93, "no tap fits"),
        (4.0, 0.95, "no tap fits"),
        (0.95, 0.3, "another tap fits"),
        (float("nan"), 0.3, "another tap fits"),
        (float("nan"), float("nan"), "no tap fits"),
        (0.3, float("nan"), "fits"),
    ],
)
def test_verdicts(stated: float, other: float, verdict: str) -> None:
    row = LayerTaps(
        layer=3, stated=replace(STATED, fvu=stated), others=(replace(OTHER, fvu=other),)
    )
    assert row.verdict == verdict


def test_how_a_report_reads() -> None:
    rows = (
        LayerTaps(layer=3, stated=STATED, others=(OTHER,)),
        LayerTaps(layer=4, stated=replace(STATED, fvu=0.1), others=()),
    )
    report = TapReport(n_tokens=1200, skipped=1, layers=rows)
    assert str(report) == (
        "1,200 tokens, without the first 1 of each prompt\n"
        "3 | mlp_in → mlp_out (raw) | 0.500 | another tap fits | ln2_normalized → mlp_out (raw) | 0.300\n"
        "4 | mlp_in → mlp_out (raw) | 0.100 | fits"
    )
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    assert "another tap fits" in text
    assert "1,200 tokens" in text
    with pytest.raises(SpliceError) as caught:
        report.raise_if_wrong()
    assert str(caught.value) == (
        "blocks.3.mlp (input), tap check: got FVU 0.500 at the stated tap mlp_in → mlp_out (raw) (1 of 2 "
        "layers do not fit); expected an FVU below 0.9, and no other tap that explains much more. The weights "
        "fit ln2_normalized → mlp_out (raw) with FVU 0.300: splice tl_transcoders.splice.retap(transcoders, "
        "read='ln2_normalized', write='mlp_out', folded=False)."
    )
