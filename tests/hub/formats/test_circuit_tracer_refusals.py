"""circuit-tracer files that are not what they should be, and configs that point elsewhere."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tl_transcoders as tlt
from tests.hub.client import Client
from tests.hub.published import gemma_scope_2
from tests.hub.published.circuit_tracer import SET_CONFIG, THRESHOLD, write_clt, write_set
from tests.hub.repositories import Hub
from tl_transcoders.errors import HubError, TranscoderFormatError

Change = Callable[[dict[str, Tensor]], object]


def edit(path: Path, change: Change) -> None:
    weights = dict(load_file(path))
    change(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)


def refusal(folder: Path, **options: object) -> TranscoderFormatError:
    with pytest.raises(TranscoderFormatError) as caught:
        tlt.load(folder, **options)
    return caught.value


def listing(*entries: str) -> str:
    return SET_CONFIG + "transcoders:\n" + "".join(f"  - {entry!r}\n" for entry in entries)


def set_config(folder: Path, old: str, new: str) -> None:
    text = (folder / "config.yaml").read_text()
    assert old in text
    (folder / "config.yaml").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("mlp.hook_in", "hook_mlp_in", "feature_input_hook"),
        ("hook_mlp_out", "hook_resid_post", "feature_output_hook"),
        ("feature_output_hook: 'hook_mlp_out'", "", "feature_output_hook"),
        ("transcoder_set", "transcoder_bag", "model_kind"),
        ('"org/model"', "[1]", "model_name"),
        ('scan: "a-scan"', "transcoders: {0: x}", "transcoders"),
        ('scan: "a-scan"', "transcoders: []", "transcoders"),
    ],
)
def test_a_config_of_other_values(tmp_path: Path, old: str, new: str, where: str) -> None:
    write_set(tmp_path)
    set_config(tmp_path, old, new)
    assert refusal(tmp_path).where == f"config.yaml, {where}"


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda w: w.update(W_enc=w["W_enc"].T), "looks transposed"),
        (lambda w: w.update(W_dec=w["W_dec"].T), "looks transposed"),
        (lambda w: w.pop("b_enc"), "b_enc"),
        (lambda w: w.pop("W_dec"), "missing keys ['W_dec']"),
        (lambda w: w.update(log_thresholds=w["b_enc"].clone()), "unknown keys ['log_thresholds']"),
        (lambda w: w.update(b_dec=torch.zeros(5, dtype=torch.int32)), "floating-point"),
        (lambda w: w.update({n: t[:0] for n, t in w.items()}), "none of them empty"),
        (lambda w: w.update({THRESHOLD: -w["b_enc"].abs()}), "thresholds of 0 or more"),
        (lambda w: w.update({THRESHOLD: w["b_enc"] * torch.nan}), "thresholds of 0 or more"),
        (lambda w: w.update(W_skip=torch.zeros(5, 7)), "(d_out=5, d_in=5)"),
    ],
)
def test_weights_of_another_form(tmp_path: Path, change: Change, fragment: str) -> None:
    write_set(tmp_path)
    edit(tmp_path / "layer_1.safetensors", change)
    error = refusal(tmp_path)
    assert fragment in str(error)
    assert error.__notes__ == [f"while reading layer 1 of {tmp_path} (format: circuit-tracer)"]


def test_a_cross_layer_transcoder_that_lacks_a_layer(tmp_path: Path) -> None:
    write_clt(tmp_path)
    (tmp_path / "W_enc_2.safetensors").unlink()
    assert "shape (11, 3, 5) beside 2 layers" in str(refusal(tmp_path))
    (tmp_path / "W_dec_1.safetensors").unlink()
    assert "no such file" in str(refusal(tmp_path))


def test_a_cross_layer_transcoder_with_targets_first(tmp_path: Path) -> None:
    write_clt(tmp_path)
    edit(tmp_path / "W_dec_1.safetensors", lambda w: w.update(W_dec_1=w["W_dec_1"].movedim(0, 1)))
    assert "(feature=11, target=2, d_out=5)" in str(refusal(tmp_path))


@pytest.mark.parametrize(
    "entry",
    [
        "../layer_0.safetensors",
        "/etc/passwd",
        "a/../../layer_0.safetensors",
        "https://elsewhere/layer_0.safetensors",
        "hf://",
        "hf://org",
        "hf://org/repo",
        "hf://org/repo;rm -rf/x.safetensors",
        "hf://[::/repo/x",
        "hf:///etc/passwd",
        "hf://org/list/layer_0.safetensors?revision=refs/pr/1",
        "hf://org/list/layer_0.safetensors?revision=refs%2Fpr%2F1",
    ],
)
def test_lists_that_leave_the_folder(tmp_path: Path, entry: str) -> None:
    write_set(tmp_path / "set")
    write_set(tmp_path)
    (tmp_path / "set" / "config.yaml").write_text(listing(entry))
    refusal(tmp_path / "set")


@pytest.mark.parametrize("entry", ["layer_0.safetensors", "hf://org/x/a.safetensors"])
def test_lists_that_name_a_file_twice(tmp_path: Path, entry: str) -> None:
    write_set(tmp_path)
    (tmp_path / "config.yaml").write_text(listing(entry, "layer_1.safetensors", entry))
    assert "for layers 0 and 2" in refusal(tmp_path).got


def test_a_symlinked_layer(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    write_set(tmp_path / "elsewhere")
    (tmp_path / "set" / "layer_1.safetensors").unlink()
    (tmp_path / "set" / "layer_1.safetensors").symlink_to(
        tmp_path / "elsewhere" / "layer_1.safetensors"
    )
    refusal(tmp_path / "set")


def test_a_list_of_its_own_files(hub: Hub, client: Client, tmp_path: Path) -> None:
    published = write_set(tmp_path)
    entries = ("layer_2.safetensors", "hf://org/own/layer_1.safetensors", "layer_0.safetensors")
    (tmp_path / "config.yaml").write_text(listing(*entries))
    hub.publish("org/own", tmp_path)
    loaded = client.run(tlt.load, "org/own", layers=[0, 1])
    assert loaded.origin.others == ()
    torch.testing.assert_close(loaded[0].b_enc.data, published[2]["b_enc"])
    torch.testing.assert_close(loaded[1].b_enc.data, published[1]["b_enc"])
    assert hub.downloads() == {"config.yaml", "layer_1.safetensors", "layer_2.safetensors"}


def test_a_list_that_points_elsewhere(hub: Hub, client: Client, tmp_path: Path) -> None:
    published = write_set(tmp_path / "weights")
    commit = hub.publish("other/weights", tmp_path / "weights")
    (tmp_path / "list").mkdir()
    entries = (
        f"hf://other/weights/layer_0.safetensors?revision={commit}",
        "hf://other/weights/layer_1.safetensors",
    )
    (tmp_path / "list" / "config.yaml").write_text(listing(*entries))
    hub.publish("org/list", tmp_path / "list")
    for trust in ((), ("other/else",)):
        with pytest.raises(TranscoderFormatError, match="takes files from other/weights") as caught:
            client.run(tlt.load, "org/list", trust=trust)
        assert "trust=['other/weights']" in caught.value.do
    assert not any("other" in request for request in hub.requests)
    loaded = client.run(tlt.load, "org/list", trust="other/weights")
    for layer in (0, 1):
        torch.testing.assert_close(loaded[layer].W_enc.data.T, published[layer]["W_enc"])
    assert loaded.origin.others == (f"other/weights@{commit}",)
    gone = listing("hf://other/weights/layer_0.safetensors?revision=gone")
    (tmp_path / "list" / "config.yaml").write_text(gone)
    with pytest.raises(HubError, match="no such revision"):
        client.run(tlt.load, tmp_path / "list", trust="other/weights")


def test_a_list_of_gemma_scope(hub: Hub, client: Client, tmp_path: Path) -> None:
    weights = write_set(tmp_path / "unused", threshold=True)[0]
    arrays = {name: tensor.numpy() for name, tensor in weights.items() if name != THRESHOLD}
    arrays |= {"W_enc": arrays["W_enc"].T, "threshold": weights[THRESHOLD].numpy()}
    folder = tmp_path / "scope" / "layer_0" / "width_16k" / "average_l0_76"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **arrays)
    hub.publish("google/scope", tmp_path / "scope")
    (tmp_path / "list").mkdir()
    entry = "hf://google/scope/layer_0/width_16k/average_l0_76/params.npz"
    (tmp_path / "list" / "config.yaml").write_text(listing(entry))
    loaded = client.run(tlt.load, tmp_path / "list", trust=["google/scope"])
    x = torch.randn(3, 5)
    pre = x @ weights["W_enc"].T + weights["b_enc"]
    y = (pre * (pre > weights[THRESHOLD])) @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(loaded[0](x), y)


@pytest.mark.parametrize("case", ["transcoder_all/*_small", "transcoder_all/*_affine"])
def test_a_list_of_gemma_scope_2(hub: Hub, client: Client, tmp_path: Path, case: str) -> None:
    gemma_scope_2.write(tmp_path / "scope", case=case)
    hub.publish("google/scope-2", tmp_path / "scope")
    (tmp_path / "list").mkdir()
    folder = case.replace("*", "layer_0_width_16k_l0" + ("_small" if "affine" in case else ""))
    entry = f"hf://google/scope-2/{folder}/params.safetensors"
    (tmp_path / "list" / "config.yaml").write_text(listing(entry))
    listed = client.run(tlt.load, tmp_path / "list", trust=["google/scope-2"])
    kind = "transcoder_all_affine" if "affine" in case else "transcoder_all"
    direct = tlt.load(tmp_path / "scope", kind=kind, layers=[0])
    assert isinstance(direct, tlt.TranscoderSet)
    x = torch.randn(3, 5)
    assert torch.equal(listed[0](x), direct[0](x))
    assert listed[0].cfg.skip == ("affine" in case)
