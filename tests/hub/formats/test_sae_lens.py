"""SAELens' folders: the maths, SAELens itself, taps, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hub.client import Client
from tests.hub.formats.compare import (
    assert_computes,
    assert_near,
    golden,
    load_one,
    load_set,
    refusal,
)
from tests.hub.published.sae_lens import CASES, D_IN, FEATURES, SCALE, write
from tests.hub.repositories import Hub
from tl_transcoders.errors import ConfigError
from tl_transcoders.hub import load
from tl_transcoders.transcoders import JumpReLU, ReLU, TopK


def edit(folder: Path, **changes: object) -> None:
    """Change `cfg.json`; `metadata__key` changes a key of the metadata."""
    cfg = json.loads((folder / "cfg.json").read_text())
    for name, value in changes.items():
        inner = cfg["metadata"] if name.startswith("metadata__") else cfg
        inner[name.removeprefix("metadata__")] = value
    (folder / "cfg.json").write_text(json.dumps(cfg))


@pytest.mark.parametrize("case", CASES)
def test_sae_lens_computes_the_same(tmp_path: Path, case: str) -> None:
    write(tmp_path, case=case, layers=(3,))
    assert_computes(load_one(tmp_path), golden("sae_lens", case))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["W_enc", "W_dec"])
def test_one_changed_weight_is_seen(tmp_path: Path, case: str, name: str) -> None:
    expected = golden("sae_lens", case)
    feature = expected["post"].sum((0, 1)).argmax()
    write(tmp_path, case=case, layers=(3,))
    change(tmp_path, lambda w: w[name][(1, feature) if name == "W_enc" else (feature, 1)].add_(0.1))
    with pytest.raises(AssertionError):
        assert_computes(load_one(tmp_path), expected)


def test_a_skip_transcoder_by_its_formula(tmp_path: Path) -> None:
    write(tmp_path, case="jumprelu_skip_transcoder", layers=(3,))
    w = load_file(tmp_path / "sae_weights.safetensors")
    x = torch.randn(13, D_IN)
    pre = x @ w["W_enc"] + w["b_enc"]
    post = pre.relu() * (pre > w["threshold"])
    y = post @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T
    assert_near(load_one(tmp_path)(x), y)


def test_a_gated_sae_by_its_formula(tmp_path: Path) -> None:
    write(tmp_path, case="gated", layers=(3,))
    w = load_file(tmp_path / "sae_weights.safetensors")
    x = torch.randn(13, D_IN)
    gate = (x - w["b_dec"]) @ w["W_enc"] + w["b_gate"] > 0
    magnitude = ((x - w["b_dec"]) @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
    y = (gate * magnitude) @ w["W_dec"] + w["b_dec"]
    assert_near(load_one(tmp_path)(x), y)


def test_a_scaled_sae_by_its_formula(tmp_path: Path) -> None:
    write(tmp_path, case="scaled", layers=(3,))
    w = load_file(tmp_path / "sae_weights.safetensors")
    x = torch.randn(13, D_IN)
    pre = (SCALE * x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    y = ((pre.relu() * (pre > w["threshold"])) @ w["W_dec"] + w["b_dec"]) / SCALE
    assert_near(load_one(tmp_path)(x), y)


def test_the_config_of_a_transcoder(tmp_path: Path) -> None:
    write(tmp_path, case="jumprelu_skip_transcoder", layers=(3,))
    found = load_set(tmp_path)
    cfg = found[3].cfg
    assert (cfg.d_in, cfg.d_out, cfg.n_features, cfg.activation) == (5, 7, 11, JumpReLU())
    assert (cfg.read, cfg.write, cfg.skip, cfg.folded) == ("ln2_normalized", "mlp_out", True, False)
    assert (found.origin.model_name, found.origin.source) == ("gpt2", str(tmp_path))
    assert not any(parameter.requires_grad for parameter in found[3].parameters())


@pytest.mark.parametrize(
    ("case", "activation"), [("standard", ReLU()), ("flat_topk", TopK(3)), ("gated", JumpReLU())]
)
def test_the_config_of_an_sae(tmp_path: Path, case: str, activation: object) -> None:
    write(tmp_path, case=case, layers=(3,))
    cfg = load_one(tmp_path).cfg
    assert (cfg.read, cfg.write, cfg.activation) == ("resid_post", "resid_post", activation)
    assert cfg.is_sae


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("mlp.hook_in", "mlp_in"),
        ("ln2.hook_normalized", "ln2_normalized"),
        ("hook_resid_mid", "resid_mid"),
    ],
)
def test_the_site_read(tmp_path: Path, hook: str, site: str) -> None:
    write(tmp_path, layers=(3,))
    edit(tmp_path, metadata__hook_name=f"blocks.3.{hook}")
    assert load_one(tmp_path).cfg.read == site


def test_hook_mlp_in_means_what_the_huggingface_name_says(tmp_path: Path) -> None:
    write(tmp_path, layers=(3,))
    edit(tmp_path, metadata__hook_name="blocks.3.hook_mlp_in")
    assert "In TransformerLens this hook is before ln2" in refusal(tmp_path).do
    edit(tmp_path, metadata__hf_hook_name="model.layers.3.pre_feedforward_layernorm.output")
    assert load_one(tmp_path).cfg.read == "mlp_in"


def test_a_processed_model(tmp_path: Path) -> None:
    write(tmp_path, layers=(3,))
    edit(tmp_path, metadata__model_from_pretrained_kwargs={"fold_ln": True})
    assert load_one(tmp_path).cfg.folded


def test_an_output_bias_beside_the_pre_bias(tmp_path: Path) -> None:
    """The layout of arena-demos-transcoder: Dunefsky's GPT-2 transcoders written as standard SAEs."""
    write(tmp_path, case="standard", layers=(3,))
    edit(tmp_path, use_b_dec_out=True, metadata__hook_name="blocks.3.ln2.hook_normalized")
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**weights, "b_dec_out": torch.randn(D_IN)}, tmp_path / "sae_weights.safetensors")
    w = load_file(tmp_path / "sae_weights.safetensors")
    x = torch.randn(13, D_IN)
    post = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    torch.testing.assert_close(load_one(tmp_path)(x), post @ w["W_dec"] + w["b_dec_out"])
    cfg = load_one(tmp_path).cfg
    assert (cfg.read, cfg.write, cfg.folded) == ("ln2_normalized", "mlp_out", True)


def test_an_output_bias_in_a_flat_config(tmp_path: Path) -> None:
    write(tmp_path, case="flat_standard", layers=(3,))
    edit(tmp_path, use_b_dec_out=True, hook_point="blocks.3.ln2.hook_normalized")
    cfg = load_one(tmp_path).cfg
    assert (cfg.read, cfg.write, cfg.folded) == ("ln2_normalized", "mlp_out", True)


def test_many_layers(tmp_path: Path) -> None:
    write(tmp_path, layers=(1, 3, 11))
    assert load_set(tmp_path).layers == (1, 3, 11)
    assert load_set(tmp_path, layers=[11, 1]).layers == (1, 11)
    assert refusal(tmp_path, layers=[2]).expected == "some of the layers it holds, [1, 3, 11]"


def test_two_folders_of_one_layer_need_a_choice(tmp_path: Path) -> None:
    write(tmp_path / "a", layers=(1, 3))
    write(tmp_path / "b", layers=(1, 3), seed=7)
    with pytest.raises(ConfigError, match=r"one of 'a/layer_1', 'b/layer_1'"):
        load(tmp_path, layers=[1])
    chosen = load_set(tmp_path, kind="b/*")
    assert torch.equal(chosen[3].W_dec, load_one(tmp_path / "b", layers=[3]).W_dec)
    with pytest.raises(ConfigError, match="kind='c'"):
        load(tmp_path, kind="c")
    with pytest.raises(ConfigError, match="width='16k'"):
        load(tmp_path, width="16k")


def test_only_the_files_of_those_layers_are_downloaded(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    write(tmp_path, layers=(1, 3))
    (tmp_path / "layer_1" / "sparsity.safetensors").write_bytes(b"not asked for")
    commit = hub.publish("org/sae-lens", tmp_path)
    found = client.run(load, "org/sae-lens", layers=[3])
    assert (found.layers, found.origin.revision) == ((3,), commit)
    assert torch.equal(found[3].W_dec, load_set(tmp_path)[3].W_dec)
    sent = [request.split()[1] for request in hub.requests if "/store/" in request]
    assert len({path for path in sent if path.endswith("sae_weights.safetensors")}) == 1
    assert client.run(load, "org/sae-lens").layers == (1, 3)
    assert "sparsity.safetensors" not in hub.downloads()


@pytest.mark.parametrize(
    ("case", "changes", "said"),
    [
        ("standard", {"architecture": "abstopk"}, "largest magnitude"),
        ("standard", {"architecture": "temporal"}, "other positions"),
        ("standard", {"architecture": "batchtopk"}, "publishes such an SAE as jumprelu"),
        ("standard", {"architecture": 3}, "got 3; expected str"),
        ("standard", {"normalize_activations": "layer_norm"}, "not affine"),
        ("standard", {"normalize_activations": "covariance_whitening"}, "whitening matrix"),
        ("standard", {"normalize_activations": "?"}, "not defined"),
        ("standard", {"normalize_activations": "expected_average_only_in"}, "no file with"),
        ("transcoder", {"normalize_activations": "expected_average_only_in"}, "of an SAE"),
        ("transcoder", {"apply_b_dec_to_input": True}, "width of the output"),
        ("transcoder", {"metadata__hook_name_out": None}, "hook_name_out: got None"),
        ("transcoder", {"metadata__hook_name_out": "blocks.4.hook_mlp_out"}, "of layer 3"),
        ("transcoder", {"metadata__hook_name": "blocks.3.hook_resid_pre"}, "a transcoder"),
        ("standard", {"metadata__hook_name": "blocks.3.attn.hook_q"}, "one of blocks"),
        ("standard", {"metadata__hook_name": "layers.3"}, "one of blocks"),
        ("standard", {"metadata__hook_name": "blocks.3.ln2.hook_normalized"}, "an SAE"),
        ("standard", {"metadata__hook_name": "blocks.99999999.hook_resid_post"}, "one of blocks"),
        ("standard", {"metadata__hook_head_index": 4}, "single head"),
        ("standard", {"metadata": []}, "metadata: got []"),
        ("standard", {"new_option": 1}, "unknown keys ['new_option']"),
        ("standard", {"d_sae": 0}, "n_features=0"),
        ("standard", {"d_sae": 10**12}, "feature=1000000000000"),
        ("standard", {"d_sae": "11"}, "d_sae: got '11'"),
        ("standard", {"d_sae": True}, "d_sae: got True"),
        ("topk", {"k": 0}, "at least 1"),
        ("topk", {"k": FEATURES + 1}, "k=12"),
        ("standard", {"architecture": "jumprelu"}, "missing keys ['threshold']"),
        ("jumprelu", {"architecture": "standard"}, "unknown keys ['threshold']"),
        ("flat_standard", {"activation_fn_str": "tanh-relu"}, "no equal among ours"),
        ("flat_topk", {"activation_fn_kwargs": {}}, "k: got None"),
    ],
)
def test_configs_that_cannot_be_folded_or_understood(
    tmp_path: Path, case: str, changes: dict[str, Any], said: str
) -> None:
    write(tmp_path, case=case, layers=(3,))
    edit(tmp_path, **changes)
    assert said in str(refusal(tmp_path))


@pytest.mark.parametrize("value", [0, -1, float("inf"), "1", None])
def test_a_scale_that_is_none(tmp_path: Path, value: object) -> None:
    write(tmp_path, case="scaled", layers=(3,))
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": value}))
    assert "scaling_factor" in refusal(tmp_path).where


def test_a_fine_tuned_scale(tmp_path: Path) -> None:
    write(tmp_path, case="flat_topk", layers=(3,))
    change(tmp_path, lambda w: w.update(scaling_factor=torch.full((FEATURES,), 2.0)))
    assert "multiply them into W_dec" in refusal(tmp_path).do


def test_a_transposed_skip(tmp_path: Path) -> None:
    write(tmp_path, case="skip_transcoder", layers=(3,))
    change(tmp_path, lambda w: w.update(W_skip=w["W_skip"].T.contiguous()))
    error = refusal(tmp_path)
    assert (error.got, error.expected) == ("shape (5, 7)", "(d_out=7, d_in=5)")
    assert error.__notes__ == [f"while reading layer 3 of {tmp_path} (format: SAELens)"]


def change(folder: Path, edited: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "sae_weights.safetensors")
    edited(weights)
    save_file(weights, folder / "sae_weights.safetensors")
