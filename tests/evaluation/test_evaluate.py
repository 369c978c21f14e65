"""`evaluate` against the definitions, written out."""

import io
from typing import Any

import pytest
import torch
from rich.console import Console

import tl_transcoders as tlt
from tests.cases import BOS, HOSTS, PAD, Host, Kind, case_id, tokens
from tl_transcoders.errors import ShapeError, TLTranscodersError
from tl_transcoders.evaluation.behaviour import ROWS, Predictions
from tl_transcoders.hosts import resolve_host
from tl_transcoders.transcoders import TopK

pytestmark = pytest.mark.cases
every_host = pytest.mark.parametrize("host", HOSTS, ids=case_id)


@every_host
def test_the_definitions(host: Host) -> None:
    model = host.build()
    transcoders = Kind("topk", TopK(5), skip=True).build(model)
    seen = resolve_host(model)
    with seen.recording([(1, "mlp_in"), (1, "mlp_out_raw")]) as store:
        seen.run(tokens())
    kept = tokens() != BOS
    x, y = store[1, "mlp_in"][kept], store[1, "mlp_out_raw"][kept]
    post = transcoders[1].encode(x)
    fvu = (y - transcoders[1](x)).square().sum() / (y - y.mean(0)).square().sum()
    original = seen.logits(tokens()).log_softmax(-1)
    with tlt.splice(model, transcoders, exclude=[BOS]) as spliced:
        report = tlt.evaluate(spliced, tokens(), batch_size=2, per_layer=True)
        replaced = seen.logits(tokens()).log_softmax(-1)
    row = report.layers[1]
    assert row.fvu == pytest.approx(fvu.item(), rel=1e-3)
    assert row.l0 == pytest.approx((post != 0).sum(-1).float().mean().item())
    assert row.dead == pytest.approx(1 - (post != 0).any(0).float().mean().item())
    following = tokens()[:, 1:, None]
    loss = -original[:, :-1].gather(-1, following).mean().item()
    assert report.original.loss == pytest.approx(loss, rel=1e-4)
    kl = (original.exp() * (original - replaced)).sum(-1).mean().item()
    assert report.spliced.kl == pytest.approx(kl, rel=1e-2, abs=1e-5)
    assert report.original.kl == 0
    assert row.spliced is not None
    assert row.ablated is not None


def test_a_cross_layer_transcoder_has_no_layers_alone() -> None:
    model = HOSTS[0].build()
    with tlt.splice(model, Kind("clt", cross_layer=True).build(model)) as spliced:
        report = tlt.evaluate(spliced, tokens(), per_layer=True)
    assert [row.spliced for row in report.layers.values()] == [None, None, None]
    assert all(row.fvu > 0 for row in report.layers.values())


def test_a_report_prints_and_becomes_markdown() -> None:
    model = HOSTS[0].build()
    with tlt.splice(model, Kind("topk", TopK(5)).build(model)) as spliced:
        report = tlt.evaluate(spliced, tokens())
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(report)
    assert "KL spliced" in console.export_text()
    assert report.markdown().count("\n") == 5
    text = str(report)
    assert "\x1b" not in text
    assert f"{report.layers[1].fvu:.3f}" in text
    for value in (report.original.loss, report.spliced.loss, report.spliced.kl):
        assert f"{value:.4f}" in text
    assert list(report.layers) == [0, 1, 2]


def test_predictions_compare_as_defined_however_many_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(11, (5, 29), generator=generator)
    original, other = torch.randn(2, 5, 29, 11, generator=generator).unbind(0)
    p, q = original.log_softmax(-1), other.log_softmax(-1)
    predictions = Predictions(original, text)
    assert text.numel() > 2 * ROWS
    loss, kl = predictions.compare(other)
    torch.testing.assert_close(loss, -q[:, :-1].gather(-1, text[:, 1:, None])[..., 0])
    torch.testing.assert_close(kl, (p.exp() * (p - q)).sum(-1))
    torch.testing.assert_close(predictions.loss(), -p[:, :-1].gather(-1, text[:, 1:, None])[..., 0])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(kl, (q.exp() * (q - p)).sum(-1))


def test_an_exclude_mask_goes_with_its_prompts() -> None:
    model = HOSTS[0].build()
    transcoders = Kind("topk", TopK(5)).build(model)
    prompts = tokens(5)
    mask = torch.rand(prompts.shape) < 0.3
    with tlt.splice(model, transcoders, exclude=mask) as spliced:
        whole = tlt.evaluate(spliced, prompts, batch_size=5)
        parts = tlt.evaluate(spliced, prompts, batch_size=2)
        with pytest.raises(
            ShapeError, match=r"exclude mask: got shape \(5, 7\) for tokens \(10, 7\)"
        ):
            tlt.evaluate(spliced, prompts.repeat(2, 1), batch_size=5)
    assert parts.spliced.loss == pytest.approx(whole.spliced.loss)
    assert parts.layers[1].fvu == pytest.approx(whole.layers[1].fvu)
    assert parts.layers[1].l0 == pytest.approx(whole.layers[1].l0)


@pytest.mark.parametrize("pad", [PAD, BOS])
def test_padding_does_not_count(pad: int) -> None:
    model = HOSTS[0].build()
    padded = torch.cat([tokens(), torch.full((3, 4), pad)], dim=1)
    with tlt.splice(model, Kind("topk", TopK(5)).build(model)) as spliced:
        expected = tlt.evaluate(spliced, tokens())
        given = None if pad == PAD else torch.arange(11).expand(3, 11) < 7
        found = tlt.evaluate(spliced, padded, mask=given)
        assert tlt.evaluate(spliced, padded).n_tokens == (21 if pad == PAD else 33)
    assert found.n_tokens == expected.n_tokens == 21
    assert found.original.loss == pytest.approx(expected.original.loss, rel=1e-5)
    assert found.layers[1].fvu == pytest.approx(expected.layers[1].fvu, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": torch.zeros(3, 7, dtype=torch.bool)}, "no token that counts"),
        ({"batch_size": 0}, "evaluate, batch_size: got 0; expected an integer above 0"),
    ],
)
def test_options_that_leave_nothing_to_measure(options: dict[str, Any], message: str) -> None:
    model = HOSTS[0].build()
    with (
        tlt.splice(model, Kind("topk", TopK(5)).build(model)) as spliced,
        pytest.raises(TLTranscodersError, match=message),
    ):
        tlt.evaluate(spliced, tokens(), **options)


@pytest.mark.parametrize("host", [h for h in HOSTS if str(h).startswith("gpt2")], ids=case_id)
def test_dropout_is_off(host: Host) -> None:
    model = host.fresh()
    transcoders = Kind("topk", TopK(5)).build(model)
    with tlt.splice(model, transcoders) as spliced:
        expected = tlt.evaluate(spliced, tokens())
        model.train()
        for module in spliced.host.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        assert tlt.evaluate(spliced, tokens()).original == expected.original
        assert model.training


def test_one_token_predicts_nothing() -> None:
    model = HOSTS[0].build()
    with (
        tlt.splice(model, Kind("topk", TopK(5)).build(model)) as spliced,
        pytest.raises(ShapeError, match="at least two"),
    ):
        tlt.evaluate(spliced, tokens()[:, :1])
