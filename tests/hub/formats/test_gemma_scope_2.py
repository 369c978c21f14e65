"""Gemma Scope 2: the maths, SAELens, the choice of a set, taps, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.hub.client import Client
from tests.hub.formats.compare import (
    assert_computes,
    assert_near,
    golden,
    load_one,
    load_set,
    refusal,
)
from tests.hub.published.gemma_scope_2 import CROSS_LAYER, D_IN, LAYERS, write
from tests.hub.repositories import Hub
from tl_transcoders.errors import ConfigError, HubError
from tl_transcoders.hub import load
from tl_transcoders.hub.formats.gemma_scope_2 import catalogue
from tl_transcoders.transcoders import CrossLayerTranscoder, JumpReLU

AFFINE = "transcoder_all/layer_2_width_16k_l0_small_affine"
PLAIN = "transcoder_all/layer_2_width_16k_l0_small"
CHOICES = {
    PLAIN: {"kind": "transcoder_all", "l0": "small"},
    "transcoder_all/layer_2_width_16k_l0_big": {"kind": "transcoder_all", "l0": "big"},
    AFFINE: {"kind": "transcoder_all_affine"},
    "resid_post_all/layer_2_width_16k_l0_small": {"kind": "resid_post_all"},
    "transcoder/layer_1_width_262k_l0_medium_affine": {"kind": "transcoder_affine"},
    "resid_post/layer_1_width_16k_l0_medium": {"kind": "resid_post"},
    "resid_post/layer_1_width_16k_l0_medium_seed_1": {"kind": "resid_post_seed_1"},
    "attn_out/layer_1_width_16k_l0_medium": {"kind": "attn_out"},
    "mlp_out/layer_1_width_16k_l0_medium": {"kind": "mlp_out"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "set")
    return tmp_path / "set"


def layer_of(name: str) -> int:
    return int(name.partition("/layer_")[2][0])


def edit(folder: Path, name: str, **changes: object) -> None:
    path = folder / name / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change(path: Path, **changes: Tensor | None) -> None:
    """Replace tensors of a file, or leave them out where None."""
    weights: dict[str, Any] = {**load_file(path), **changes}
    save_file({name: t.contiguous() for name, t in weights.items() if t is not None}, path)


@pytest.mark.parametrize("name", CHOICES)
def test_sae_lens_computes_the_same(folder: Path, name: str) -> None:
    found = load_one(folder, layers=[layer_of(name)], **CHOICES[name])
    assert_computes(found, golden("gemma_scope_2", name))


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("weight", ["w_enc", "w_dec"])
def test_one_changed_weight_is_seen(folder: Path, name: str, weight: str) -> None:
    expected = golden("gemma_scope_2", name)
    feature = expected["post"].sum((0, 1)).argmax()
    w = load_file(folder / name / "params.safetensors")[weight]
    w[(1, feature) if weight == "w_enc" else (feature, 1)] += 0.1
    change(folder / name / "params.safetensors", **{weight: w})
    found = load_one(folder, layers=[layer_of(name)], **CHOICES[name])
    with pytest.raises(AssertionError):
        assert_computes(found, expected)


def test_an_affine_transcoder_by_its_formula(folder: Path) -> None:
    w = load_file(folder / AFFINE / "params.safetensors")
    x = torch.randn(13, D_IN)
    pre = x @ w["w_enc"] + w["b_enc"]
    y = (pre * (pre > w["threshold"])) @ w["w_dec"] + w["b_dec"] + x @ w["affine_skip_connection"]
    assert_near(load_one(folder, layers=[2], kind="transcoder_all_affine")(x), y)


def cross_layer(folder: Path, kind: str) -> CrossLayerTranscoder:
    found = load(folder, kind=kind)
    assert isinstance(found, CrossLayerTranscoder)
    return found


def assert_computes_all(clt: CrossLayerTranscoder, files: list[dict[str, Tensor]]) -> None:
    """y[j] = Σ_{i ≤ j} post[i] @ w_dec[i][:, j] + b_dec[j] (+ x[j] @ affine[j])."""
    x = {layer: torch.randn(13, D_IN) for layer in range(LAYERS)}
    y = clt(x)
    pre = [x[i] @ w["w_enc"] + w["b_enc"] for i, w in enumerate(files)]
    post = [p * (p > w["threshold"]) for p, w in zip(pre, files, strict=True)]
    for j, w in enumerate(files):
        expected = w["b_dec"] + sum(post[i] @ files[i]["w_dec"][:, j] for i in range(j + 1))
        if "affine_skip_connection" in w:
            expected = expected + x[j] @ w["affine_skip_connection"]
        assert_near(y[j], expected)


@pytest.mark.parametrize("name", CROSS_LAYER)
def test_a_cross_layer_transcoder_by_its_formula(folder: Path, name: str) -> None:
    clt = cross_layer(folder, "clt_affine" if "affine" in name else "clt")
    files = [
        load_file(folder / name / f"params_layer_{layer}.safetensors") for layer in range(LAYERS)
    ]
    assert_computes_all(clt, files)
    files[0]["w_dec"][:, 2] += 0.1
    with pytest.raises(AssertionError):
        assert_computes_all(clt, files)


@pytest.mark.parametrize("name", CROSS_LAYER)
def test_sae_lens_finds_the_same_features(folder: Path, name: str) -> None:
    clt = cross_layer(folder, "clt_affine" if "affine" in name else "clt")
    for layer in range(LAYERS):
        expected = golden("gemma_scope_2", f"{name}/params_layer_{layer}")
        assert_near(clt.encode(layer, expected["x"]), expected["post"])


@pytest.mark.parametrize("name", CROSS_LAYER)
def test_circuit_tracer_computes_the_same(tmp_path: Path, name: str) -> None:
    write(tmp_path, d_out=D_IN)
    clt = cross_layer(tmp_path, "clt_affine" if "affine" in name else "clt")
    expected = golden("gemma_scope_2_clt", name)
    x = dict(enumerate(expected["x"]))
    for layer, y in clt(x).items():
        assert_near(y, expected["y"][layer])
    clt.W_dec[0].data[2] += 0.1
    with pytest.raises(AssertionError):
        assert_near(clt(x)[2], expected["y"][2])


def test_the_config_of_a_cross_layer_transcoder(folder: Path) -> None:
    cfg = cross_layer(folder, "clt_affine").cfg
    assert (cfg.layers, cfg.d_in, cfg.d_out, cfg.n_features) == ((0, 1, 2), 5, 7, 13)
    assert (cfg.read, cfg.write, cfg.activation, cfg.skip) == (
        "mlp_in",
        "mlp_out",
        JumpReLU(),
        True,
    )


@pytest.mark.parametrize(
    ("name", "read", "write"),
    [
        (PLAIN, "mlp_in", "mlp_out"),
        ("resid_post/layer_1_width_16k_l0_medium", "resid_post", "resid_post"),
        ("attn_out/layer_1_width_16k_l0_medium", "z", "z"),
        ("mlp_out/layer_1_width_16k_l0_medium", "mlp_out", "mlp_out"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_taps(folder: Path, name: str, read: str, write: str, with_config: bool) -> None:
    if not with_config:
        (folder / name / "config.json").unlink()
    found = load_set(folder, layers=[layer_of(name)], **CHOICES[name])
    cfg = found[layer_of(name)].cfg
    assert (cfg.read, cfg.write, cfg.folded) == (read, write, False)
    assert found.origin.model_name == ("google/gemma-3-270m" if with_config else None)


def test_the_default_is_transcoders_of_all_layers(folder: Path) -> None:
    for layers in (None, range(LAYERS)):
        found = load_set(folder, layers=layers, width="16k", l0="small")
        assert found.layers == (0, 1, 2)
        assert (found[0].cfg.read, found[0].cfg.skip) == ("mlp_in", False)


def test_choices_are_listed(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folder)
    assert caught.value.expected == (
        "one of the sets it holds: kind: transcoder_all; width: 16k; l0: big, small"
    )
    with pytest.raises(ConfigError, match="kind: resid_post_all, transcoder_all, transcoder_all_"):
        load(folder, layers=[2], l0="small")
    with pytest.raises(
        ConfigError, match=r"a request for kind='crosscoder'; .*kind: attn_out, clt"
    ):
        load(folder, kind="crosscoder")
    error = refusal(folder, kind="transcoder_affine", layers=[1, 2])
    assert error.expected == "some of the layers it holds, [1]"


@pytest.mark.parametrize("number", ["00", "\uff10"], ids=["zeros", "fullwidth"])
def test_another_spelling_of_a_layer_is_no_layer(number: str) -> None:
    name = "transcoder_all/layer_{}_width_16k_l0_small/params.safetensors"
    found = catalogue({name.format(number), name.format("0")})
    assert [list(files.values()) for files in found.values()] == [[name.format("0")]]


def test_part_of_a_cross_layer_transcoder(folder: Path) -> None:
    with pytest.raises(ConfigError, match="decode into one another"):
        load(folder, kind="clt", layers=[1])
    (folder / CROSS_LAYER[0] / "params_layer_1.safetensors").unlink()
    assert refusal(folder, kind="clt").got == "files of layers [0, 2]"


def test_only_the_files_asked_for_are_downloaded(
    hub: Hub, client: Client, offline: Client, tmp_path: Path
) -> None:
    write(tmp_path)
    commit = hub.publish("org/gemma-scope-2", tmp_path)
    chosen = {"layers": [0, 2], "kind": "transcoder_all", "width": "16k", "l0": "small"}
    found = client.run(load, "org/gemma-scope-2", **chosen)
    assert (found.layers, found.origin.revision) == ((0, 2), commit)
    assert torch.equal(found[2].W_dec, load_set(tmp_path, **chosen)[2].W_dec)
    sent = [request for request in hub.requests if request.startswith("GET /store/")]
    assert len(sent) == 2
    assert offline.run(load, "org/gemma-scope-2", **chosen).layers == (0, 2)
    with pytest.raises(HubError, match="offline"):
        offline.run(load, "org/gemma-scope-2", layers=[1], kind="mlp_out")
    assert isinstance(client.run(load, "org/gemma-scope-2", kind="clt"), CrossLayerTranscoder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "topk"}, "expected 'jump_relu'"),
        ({"architecture": None}, "expected str"),
        ({"hf_hook_point_in": "model.layers.1.pre_feedforward_layernorm.output"}, "layers.2.pre_"),
        ({"hf_hook_point_in": "model.layers.2.mlp.input"}, "one of model.layers.2."),
        ({"hf_hook_point_in": ["model.layers.2.output"]}, "one of model.layers.2."),
        ({"hf_hook_point_in": {}}, "one of model.layers.2."),
        ({"hf_hook_point_in": "model.layers.2.output"}, "a transcoder (read"),
        ({"affine_connection": True}, "missing keys ['affine_skip_connection']"),
        ({"affine_connection": "yes"}, "expected bool"),
        ({"model_name": 3}, "expected str or NoneType"),
    ],
)
def test_configs_that_say_something_else(folder: Path, changes: dict[str, Any], said: str) -> None:
    edit(folder, PLAIN, **changes)
    error = refusal(folder, layers=[2], kind="transcoder_all", l0="small")
    assert said in str(error)
    assert error.__notes__ == [f"while reading layer 2 of {folder} (format: Gemma Scope 2)"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"w_enc": torch.ones(11, 5)}, "looks transposed"),
        ({"w_dec": torch.ones(7, 11)}, "looks transposed"),
        ({"affine_skip_connection": torch.ones(7, 5)}, "looks transposed"),
        ({"affine_skip_connection": None}, "missing keys ['affine_skip_connection']"),
        ({"w_enc": None}, "w_enc of shape None"),
        ({"w_enc": torch.ones(55)}, "w_enc of shape (55,)"),
        ({"w_enc": torch.ones(5, 0), "b_enc": torch.ones(0)}, "n_features=0"),
        ({"extra": torch.ones(1)}, "unknown keys ['extra']"),
        ({"threshold": torch.ones(11, dtype=torch.int32)}, "dtype I32"),
    ],
)
def test_files_that_hold_something_else(folder: Path, changes: dict[str, Any], said: str) -> None:
    change(folder / AFFINE / "params.safetensors", **changes)
    assert said in str(refusal(folder, layers=[2], kind="transcoder_all_affine"))


def test_a_cross_layer_file_without_all_its_decoders(folder: Path) -> None:
    path = folder / CROSS_LAYER[0] / "params_layer_1.safetensors"
    change(path, w_dec=load_file(path)["w_dec"][:, 1:])
    error = refusal(folder, kind="clt")
    assert error.expected == "(feature=13, layer=3, d_out=7)"
    assert "layer 1" in error.__notes__[0]
