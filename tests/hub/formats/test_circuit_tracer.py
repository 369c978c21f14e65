"""circuit-tracer's layouts: the published formula, the peer's own numbers, and what is fetched from a hub."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tl_transcoders as tlt
from tests.hub.client import Client
from tests.hub.published.circuit_tracer import (
    FEATURES,
    N_LAYERS,
    SET_CONFIG,
    THRESHOLD,
    D,
    write_clt,
    write_set,
)
from tests.hub.repositories import Hub
from tl_transcoders.errors import ConfigError

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "circuit_tracer.safetensors")


def load_set(folder: Path, **options: object) -> tlt.TranscoderSet:
    loaded = tlt.load(folder, **options)
    assert isinstance(loaded, tlt.TranscoderSet)
    return loaded


def load_clt(folder: Path, **options: object) -> tlt.CrossLayerTranscoder:
    loaded = tlt.load(folder, **options)
    assert isinstance(loaded, tlt.CrossLayerTranscoder)
    return loaded


def jump(pre: Tensor, threshold: Tensor | float) -> Tensor:
    return pre * (pre > threshold)


@pytest.mark.parametrize("threshold", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_a_set_by_its_formula(tmp_path: Path, threshold: bool, skip: bool) -> None:
    published = write_set(tmp_path, threshold=threshold, skip=skip, d_out=7)
    transcoders = load_set(tmp_path)
    x = torch.randn(3, D)
    for layer, w in enumerate(published):
        post = jump(x @ w["W_enc"].T + w["b_enc"], w.get(THRESHOLD, 0.0))
        y = post @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if skip else 0)
        torch.testing.assert_close(transcoders[layer].encode(x), post)
        torch.testing.assert_close(transcoders[layer](x), y)


def test_what_is_recorded(tmp_path: Path) -> None:
    write_set(tmp_path, threshold=True)
    transcoders = load_set(tmp_path)
    cfg = transcoders[1].cfg
    assert (cfg.read, cfg.write, cfg.folded) == ("mlp_in", "mlp_out", False)
    assert cfg.activation == tlt.JumpReLU()
    assert transcoders.origin.model_name == "org/model"
    assert not any(p.requires_grad for t in transcoders.values() for p in t.parameters())


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("mlp.hook_in", "mlp_in"),
        ("ln2.hook_normalized", "ln2_normalized"),
        ("hook_resid_mid", "resid_mid"),
    ],
)
def test_every_hook_has_its_site(tmp_path: Path, hook: str, site: str) -> None:
    write_set(tmp_path)
    config = SET_CONFIG.replace("mlp.hook_in", hook).replace("hook_mlp_out", "mlp.hook_out")
    (tmp_path / "config.yaml").write_text(config)
    cfg = load_set(tmp_path)[0].cfg
    assert (cfg.read, cfg.write) == (site, "mlp_out_raw")


@pytest.mark.parametrize("name", ["wandb-config.yaml", "wanb-config.yaml"])
def test_qwen3_of_mwhanna(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "qwen3-0.6b-transcoders"
    write_set(folder)
    (folder / name).write_text("d_model: {desc: null, value: 5}\n")
    for config in ("model_name: Qwen/Qwen3-0.6B\n", None):
        (folder / "config.yaml").unlink()
        if config is not None:
            (folder / "config.yaml").write_text(config)
        transcoders = load_set(folder)
        cfg = transcoders[0].cfg
        assert (cfg.read, cfg.write, cfg.activation) == ("mlp_in", "mlp_out_raw", tlt.ReLU())
        assert transcoders.origin.model_name == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("threshold", [False, True])
def test_a_cross_layer_transcoder_by_its_formula(tmp_path: Path, threshold: bool) -> None:
    published = write_clt(tmp_path, threshold=threshold, d_out=7)
    clt = load_clt(tmp_path)
    assert (clt.cfg.read, clt.cfg.write) == ("resid_mid", "mlp_out")
    x = torch.randn(N_LAYERS, 13, D)
    post = [
        jump(x[i] @ w[f"W_enc_{i}"].T + w[f"b_enc_{i}"], w.get(f"threshold_{i}", 0.0))
        for i, w in enumerate(published)
    ]
    outputs = clt(dict(enumerate(x)))
    for j in range(N_LAYERS):
        y = published[j][f"b_dec_{j}"] + sum(
            post[i] @ published[i][f"W_dec_{i}"][:, j - i] for i in range(j + 1)
        )
        torch.testing.assert_close(outputs[j], y)


@pytest.mark.parametrize("name", ["relu", "jumprelu"])
def test_a_set_equals_the_peer(tmp_path: Path, name: str) -> None:
    write_set(tmp_path, threshold=name == "jumprelu", skip=name == "jumprelu")
    transcoders = load_set(tmp_path)
    compare_set(transcoders, f"set-{name}")
    transcoders[1].W_dec.data[:, 3] += 1e-2
    with pytest.raises(AssertionError, match="not close"):
        compare_set(transcoders, f"set-{name}")


def compare_set(transcoders: tlt.TranscoderSet, name: str) -> None:
    x = GOLDEN[f"{name}.x"]
    for layer, transcoder in transcoders.items():
        close(transcoder.encode(x[layer]), GOLDEN[f"{name}.post"][layer])
        close(transcoder(x[layer]), GOLDEN[f"{name}.y"][layer])


@pytest.mark.parametrize("name", ["relu", "jumprelu"])
def test_a_cross_layer_transcoder_equals_the_peer(tmp_path: Path, name: str) -> None:
    write_clt(tmp_path, threshold=name == "jumprelu")
    clt = load_clt(tmp_path)
    compare_clt(clt, f"clt-{name}")
    clt.W_dec[0].data[2, :, 1] += 1e-2
    with pytest.raises(AssertionError, match="not close"):
        compare_clt(clt, f"clt-{name}")


def compare_clt(clt: tlt.CrossLayerTranscoder, name: str) -> None:
    x = dict(enumerate(GOLDEN[f"{name}.x"]))
    for layer, y in clt(x).items():
        close(clt.encode(layer, x[layer]), GOLDEN[f"{name}.post"][layer])
        close(y, GOLDEN[f"{name}.y"][layer])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_first_layers_of_a_cross_layer_transcoder(tmp_path: Path) -> None:
    write_clt(tmp_path)
    whole, first = load_clt(tmp_path), load_clt(tmp_path, layers=[0, 1])
    x = dict(enumerate(torch.randn(N_LAYERS, 13, D)))
    assert first.layers == (0, 1)
    assert first.W_dec[0].shape == (2, FEATURES, D)
    for layer in (0, 1):
        torch.testing.assert_close(first(x)[layer], whole(x)[layer], rtol=0, atol=0)
    with pytest.raises(ConfigError, match=r"layers=range\(3\)"):
        load_clt(tmp_path, layers=[1, 2])


def test_only_the_layers_asked_for_are_fetched(hub: Hub, client: Client, tmp_path: Path) -> None:
    published = write_set(tmp_path)
    hub.publish("org/ct-set", tmp_path)
    loaded = client.run(tlt.load, "org/ct-set", layers=[1])
    torch.testing.assert_close(loaded[1].W_dec.data, published[1]["W_dec"])
    assert hub.downloads() == {"config.yaml", "layer_1.safetensors"}
    assert client.run(tlt.load, "org/ct-set").layers == (0, 1, 2)


def test_only_the_first_layers_are_fetched(hub: Hub, client: Client, tmp_path: Path) -> None:
    write_clt(tmp_path)
    hub.publish("org/ct-clt", tmp_path)
    assert client.run(tlt.load, "org/ct-clt", layers=range(1)).layers == (0,)
    assert hub.downloads() == {"config.yaml", "W_enc_0.safetensors", "W_dec_0.safetensors"}
    assert client.run(tlt.load, "org/ct-clt").layers == (0, 1, 2)


def test_folders_are_chosen_by_kind_width_and_l0(tmp_path: Path) -> None:
    for name in ("transcoder_all/width_16k_l0_small", "transcoder_all/width_16k_l0_small_affine"):
        write_set(tmp_path / name, skip=name.endswith("affine"))
    write_clt(tmp_path / "clt" / "width_262k_l0_medium")
    assert load_clt(tmp_path, kind="clt").layers == (0, 1, 2)
    assert load_clt(tmp_path, width="262k", l0="medium").layers == (0, 1, 2)
    assert load_set(tmp_path, kind="transcoder_all/width_16k_l0_small_affine")[0].cfg.skip
    with pytest.raises(ConfigError, match="fits 2 of its sets"):
        load_set(tmp_path, width="16k")
