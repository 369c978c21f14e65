"""Sparsify's runs: the maths, sparsify itself, hookpoints, and what is refused."""

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
from tests.hub.published.sparsify import CASES, D_IN, FACTOR, write
from tests.hub.repositories import Hub
from tl_transcoders.errors import ConfigError
from tl_transcoders.hub import load
from tl_transcoders.transcoders import TopK

MLP = "layers.3.mlp"


def edit(folder: Path, hookpoint: str = MLP, **changes: object) -> None:
    path = folder / hookpoint / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change(folder: Path, edited: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / MLP / "sae.safetensors"
    weights = load_file(path)
    edited(weights)
    save_file(weights, path)


@pytest.mark.parametrize("case", CASES)
def test_sparsify_computes_the_same(tmp_path: Path, case: str) -> None:
    write(tmp_path, case=case, hookpoints=(MLP,))
    assert_computes(load_one(tmp_path), golden("sparsify", case))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["encoder.weight", "W_dec"])
def test_one_changed_weight_is_seen(tmp_path: Path, case: str, name: str) -> None:
    expected = golden("sparsify", case)
    feature = expected["post"].sum(0).argmax()
    write(tmp_path, case=case, hookpoints=(MLP,))
    change(tmp_path, lambda w: w[name][feature, 1].add_(0.1))
    with pytest.raises(AssertionError):
        assert_computes(load_one(tmp_path), expected)


@pytest.mark.parametrize(
    ("case", "pre_bias"), [("skip_transcoder", False), ("old_skip_transcoder", True)]
)
def test_a_skip_transcoder_by_its_formula(tmp_path: Path, case: str, pre_bias: bool) -> None:
    write(tmp_path, case=case, hookpoints=(MLP,))
    w = load_file(tmp_path / MLP / "sae.safetensors")
    x = torch.randn(13, D_IN)
    centred = x - w["b_dec"] if pre_bias else x
    pre = centred @ w["encoder.weight"].T + w["encoder.bias"]
    kept = pre >= pre.topk(3).values[:, -1:]
    y = (pre.relu() * kept) @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].mT
    assert_near(load_one(tmp_path)(x), y)


def test_the_config_of_a_transcoder(tmp_path: Path) -> None:
    write(tmp_path, hookpoints=(MLP,))
    found = load_set(tmp_path)
    cfg = found[3].cfg
    assert (cfg.d_in, cfg.d_out, cfg.n_features) == (D_IN, D_IN, FACTOR * D_IN)
    assert (cfg.activation, cfg.skip, cfg.folded) == (TopK(3), True, False)
    assert found.origin.model_name == "HuggingFaceTB/SmolLM2-135M"
    assert not any(parameter.requires_grad for parameter in found[3].parameters())


@pytest.mark.parametrize(
    ("case", "hookpoint", "read", "write_"),
    [
        ("transcoder", "layers.3.mlp", "mlp_in", "mlp_out_raw"),
        ("transcoder", "model.layers.3.mlp", "mlp_in", "mlp_out_raw"),
        ("transcoder", "h.3.mlp", "mlp_in", "mlp_out_raw"),
        ("transcoder", "gpt_neox.layers.3.mlp", "mlp_in", "mlp_out_raw"),
        ("old_transcoder", "layers.3.mlp", "mlp_in", "mlp_out_raw"),
        ("old_skip_transcoder", "layers.3.mlp", "mlp_in", "mlp_out_raw"),
        ("sae", "layers.3", "resid_post", "resid_post"),
        ("old_sae", "layers.3.mlp", "mlp_out_raw", "mlp_out_raw"),
        ("sae", "layers.3.self_attn", "attn_out", "attn_out"),
        ("sae", "h.3.attn", "attn_out", "attn_out"),
        ("sae", "gpt_neox.layers.3.attention", "attn_out", "attn_out"),
    ],
)
def test_hookpoints(tmp_path: Path, case: str, hookpoint: str, read: str, write_: str) -> None:
    write(tmp_path, case=case, hookpoints=(hookpoint,))
    cfg = load_one(tmp_path).cfg
    assert (cfg.layer, cfg.read, cfg.write) == (3, read, write_)


def test_an_old_config_without_its_run_does_not_say_what_it_is(tmp_path: Path) -> None:
    write(tmp_path, case="old_transcoder", hookpoints=(MLP, "layers.4"))
    (tmp_path / "config.json").unlink()
    error = refusal(tmp_path, layers=[3])
    assert "whether this is a transcoder or an SAE" in error.expected
    assert error.__notes__ == [f"while reading layer 3 of {tmp_path} (format: sparsify)"]
    assert load_one(tmp_path, layers=[4]).cfg.read == "resid_post"
    write(tmp_path, case="old_skip_transcoder", hookpoints=(MLP,))
    (tmp_path / "config.json").unlink()
    assert load_one(tmp_path, layers=[3]).cfg.read == "mlp_in"


def test_a_transcoder_of_anything_but_an_mlp(tmp_path: Path) -> None:
    write(tmp_path, case="transcoder", hookpoints=("layers.3.self_attn",))
    assert refusal(tmp_path).expected == "a transcoder of an MLP"


def test_seeds_need_a_choice(tmp_path: Path) -> None:
    write(tmp_path, hookpoints=(f"{MLP}/seed0", f"{MLP}/seed1", f"best/{MLP}"))
    with pytest.raises(ConfigError, match=r"'best/layers\.3\.mlp', 'layers\.3\.mlp/seed0', 'lay"):
        load(tmp_path)
    chosen = load_one(tmp_path, kind="*/seed1")
    stored = load_file(tmp_path / MLP / "seed1" / "sae.safetensors")
    assert torch.equal(chosen.W_dec, stored["W_dec"])


def test_other_modules_are_left_aside(tmp_path: Path) -> None:
    write(tmp_path, case="sae", hookpoints=("embed_tokens", "layers.3"))
    assert load_set(tmp_path).layers == (3,)


def test_weights_lie_in_the_file(tmp_path: Path) -> None:
    write(tmp_path, hookpoints=(MLP,))
    before = load_one(tmp_path)
    assert before.W_enc.T.is_contiguous()
    maps = Path("/proc/self/maps").read_text().splitlines()
    spans = [m.split()[0].split("-") for m in maps if m.endswith(f"{MLP}/sae.safetensors")]
    for name in ("W_enc", "W_dec", "W_skip"):
        address = getattr(before, name).data_ptr()
        assert any(int(start, 16) <= address < int(end, 16) for start, end in spans), name


def test_only_the_files_of_those_layers_are_downloaded(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    write(tmp_path)
    (tmp_path / "state.pt").write_bytes(b"not asked for")
    commit = hub.publish("org/sparsify", tmp_path)
    found = client.run(load, "org/sparsify", layers=[3])
    assert (found.layers, found.origin.revision) == ((3,), commit)
    assert torch.equal(found[3].W_dec, load_set(tmp_path)[3].W_dec)
    assert len([request for request in hub.requests if request.startswith("GET /store/")]) == 1
    assert client.run(load, "org/sparsify").layers == (1, 3)
    assert "state.pt" not in hub.downloads()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activation": "groupmax"}, "one feature of every group"),
        ({"signed": True}, "Negative features"),
        ({"normalize_io": True}, "option of clt-training"),
        ({"new_option": 1}, "unknown keys ['new_option']"),
        ({"k": 0}, "at least 1"),
        ({"k": 16}, "k=16"),
        ({"k": None}, "expected int"),
        ({"d_in": 0}, "d_in=0"),
        ({"d_in": "5"}, "expected int"),
        ({"num_latents": -1}, "n_features=-1"),
        ({"num_latents": 10**12}, "feature=1000000000000"),
        ({"expansion_factor": None}, "expected int"),
        ({"skip_connection": False}, "unknown keys ['W_skip']"),
        ({"transcode": "yes"}, "expected bool"),
    ],
)
def test_configs_that_cannot_be_folded_or_understood(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    write(tmp_path, hookpoints=(MLP,))
    edit(tmp_path, **changes)
    assert said in str(refusal(tmp_path))


def test_options_of_the_fork_that_change_nothing(tmp_path: Path) -> None:
    write(tmp_path, hookpoints=(MLP,))
    before = load_one(tmp_path)
    edit(tmp_path, n_targets=0, coalesce_topk="none", dtype="bfloat16", tp_output=True)
    assert torch.equal(load_one(tmp_path).W_dec, before.W_dec)


def test_a_transposed_encoder(tmp_path: Path) -> None:
    write(tmp_path, hookpoints=(MLP,))
    change(tmp_path, lambda w: w.update({"encoder.weight": w["encoder.weight"].T.contiguous()}))
    assert "transposed" in refusal(tmp_path).do
