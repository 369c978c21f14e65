"""`check` on SmolLM2-135M and Gemma-3-270M, with transcoders that fit their MLPs on the tokens it measures."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from examples.real_models import gemma3, load_bridge, smollm2
from tl_transcoders._types import Site
from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts import resolve_host
from tl_transcoders.splice import norms_of, retap
from tl_transcoders.splice.sample import sample_tokens
from tl_transcoders.transcoders import Transcoder, TranscoderConfig, TranscoderSet

pytestmark = [pytest.mark.real, pytest.mark.cases]
LAYERS = (3, 12)
CASES: list[tuple[Any, Site, list[tuple[Site, Site]]]] = [
    (smollm2, "mlp_out_raw", [("ln2_normalized", "mlp_out_raw"), ("resid_mid", "mlp_out_raw")]),
    (
        gemma3,
        "mlp_out",
        [("ln2_normalized", "mlp_out"), ("mlp_in", "mlp_out_raw"), ("resid_mid", "mlp_out")],
    ),
]


@pytest.mark.parametrize(("weights", "write", "wrong"), CASES, ids=["smollm2", "gemma3"])
def test_the_right_tap_on_raw_and_processed_weights(
    weights: Any, write: Site, wrong: list[tuple[Site, Site]]
) -> None:
    model = load_bridge(weights())
    norms, tokens = norms_of(model), sample_tokens(resolve_host(model))
    transcoders = interpolating(model, tokens, write)
    for _ in ("raw", "processed"):
        report = tlt.check(model, transcoders, tokens, norms=norms)
        assert report.ok
        assert max(row.stated.fvu for row in report.layers) < 1e-3
        tlt.splice(model, transcoders, norms=norms, check=True).remove()
        for read_there, write_there in wrong:
            mistaken = retap(transcoders, read=read_there, write=write_there)
            found = tlt.check(model, mistaken, tokens, norms=norms)
            assert {row.verdict for row in found.layers} == {"another tap fits"}
            assert {(row.best.read, row.best.write) for row in found.layers} == {("mlp_in", write)}
            with pytest.raises(SpliceError, match="tap check"):
                tlt.splice(model, mistaken, norms=norms, check=tokens)
        model.enable_compatibility_mode(disable_warnings=True)


def interpolating(model: Any, tokens: Tensor, write: Site) -> TranscoderSet:
    """Skip transcoders whose W_skip maps the MLP's inputs at these tokens to its outputs; there are fewer than d_model."""
    host = resolve_host(model)
    sites: list[tuple[int, Site]] = [(i, s) for i in LAYERS for s in ("mlp_in", write)]
    with host.recording(sites) as store:
        host.run(tokens)
    rows = {place: value[:, 1:].flatten(0, 1).double() for place, value in store.items()}
    return TranscoderSet({i: _linear(i, rows[i, "mlp_in"], rows[i, write], write) for i in LAYERS})


def _linear(layer: int, x: Tensor, y: Tensor, write: Site) -> Transcoder:
    assert len(x) < x.shape[1]
    d = x.shape[1]
    cfg = TranscoderConfig(
        layer=layer, d_in=d, d_out=d, n_features=7, skip=True, read="mlp_in", write=write
    )
    return Transcoder(
        cfg,
        W_enc=torch.zeros(d, 7),
        b_enc=torch.zeros(7),
        W_dec=torch.zeros(7, d),
        b_dec=torch.zeros(d),
        W_skip=torch.linalg.lstsq(x, y, driver="gelsd").solution.float(),
    ).requires_grad_(False)
