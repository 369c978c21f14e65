"""clt-training's cross-layer runs: the formula of its source, and options that have no equal here."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tl_transcoders as tlt
from tests.hub.client import Client
from tests.hub.published.clt_training import FEATURES, N_LAYERS, D, K, run, write_run
from tests.hub.repositories import Hub
from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub import clt_training_weights

PLAIN = {"skip": False, "normalised": False, "scaled": False}
FULL = {"skip": True, "normalised": True, "scaled": True}


def compare(folder: Path, published: list[dict[str, Tensor]], mode: str) -> None:
    clt = tlt.load(folder)
    assert isinstance(clt, tlt.CrossLayerTranscoder)
    assert (clt.cfg.read, clt.cfg.write) == ("mlp_in", "mlp_out_raw")
    assert clt.cfg.activation == tlt.TopK(K)
    x = torch.randn(N_LAYERS, 13, D)
    outputs = clt(dict(enumerate(x)))
    for layer, y in enumerate(run(published, x, mode=mode)):
        torch.testing.assert_close(outputs[layer], y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["none", "concat", "per-layer"])
@pytest.mark.parametrize("options", [PLAIN, FULL], ids=["plain", "full"])
def test_by_its_formula(tmp_path: Path, mode: str, options: dict[str, bool]) -> None:
    published = write_run(tmp_path, mode=mode, **options)
    compare(tmp_path, published, mode)
    published[0]["encoder.weight"][:, 1] += 1e-2
    with pytest.raises(AssertionError, match="not close"):
        compare(tmp_path, published, mode)


def test_from_a_hub(hub: Hub, client: Client, tmp_path: Path) -> None:
    write_run(tmp_path, mode="concat", **FULL)
    hub.publish("org/clt-run", tmp_path)
    assert client.run(tlt.load, "org/clt-run").layers == (0, 1, 2)
    assert hub.downloads() == {"cfg.json", "sae.safetensors"}


def test_layers_of_it(tmp_path: Path) -> None:
    write_run(tmp_path, mode="none", **PLAIN)
    with pytest.raises(ConfigError, match="Leave layers out"):
        tlt.load(tmp_path, layers=[1])


def test_two_folders_of_a_layer(tmp_path: Path) -> None:
    write_run(tmp_path, mode="none", **PLAIN)
    copytree(tmp_path / "layers.1.mlp", tmp_path / "h.1.mlp")
    with pytest.raises(ConfigError, match=r"one of 'h\.1\.mlp', 'layers\.1\.mlp'"):
        tlt.load(tmp_path)
    assert tlt.load(tmp_path, kind="layers.*").layers == (0, 1, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "groupmax"},
        {"topk_coalesced": True},
        {"per_source_tied": True},
        {"coalesce_topk": "group"},
        {"coalesce_topk": []},
        {"n_targets": 1},
        {"k": "2"},
        {"k": -1},
        {"k": 12},
        {"d_in": 1 << 40},
        {"num_latents": 13},
    ],
)
def test_options_without_an_equal(tmp_path: Path, change: dict[str, object]) -> None:
    write_run(tmp_path, mode="none", **PLAIN)
    path = tmp_path / "layers.1.mlp" / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TranscoderFormatError):
        tlt.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda w: w["post_encs.1"].fill_(0.1), "layer 1, post_encs.1"),
        (lambda w: w["W_skips.1"].fill_(0.1), "W_skips.1"),
        (lambda w: w["in_norm"].fill_(0), "in_norm"),
        (lambda w: w["out_norm"].fill_(torch.nan), "out_norm"),
    ],
)
def test_weights_without_an_equal(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], where: str
) -> None:
    write_run(tmp_path, mode="none", **FULL)
    path = tmp_path / "layers.1.mlp" / "sae.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(weights)
    save_file(weights, path)
    with pytest.raises(TranscoderFormatError) as caught:
        tlt.load(tmp_path)
    assert caught.value.where == where


def test_features_that_read_elsewhere(tmp_path: Path) -> None:
    write_run(tmp_path, mode="none", **PLAIN)
    (tmp_path / "config.json").write_text('{"hookpoints_in": ["layers.0.input_layernorm"]}')
    with pytest.raises(TranscoderFormatError, match="hookpoints_in"):
        tlt.load(tmp_path)


def test_decoders_that_would_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, mode="concat", **PLAIN)
    monkeypatch.setattr(clt_training_weights, "MAX_UNFOLDED_BYTES", 6 * FEATURES * D * 4 - 1)
    with pytest.raises(TranscoderFormatError, match="too large for that"):
        tlt.load(tmp_path)
