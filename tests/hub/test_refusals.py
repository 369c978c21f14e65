"""Files that are not what they should be: each error says where, what, and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.hub.hostile.watch import refused
from tests.hub.samples import cross_layer, transcoder, transcoder_set
from tl_transcoders.errors import MAX_PART, ConfigError, HubError, TranscoderFormatError
from tl_transcoders.hub import load, save
from tl_transcoders.transcoders import JumpReLU

WEIGHTS = "layer_3.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(transcoder(activation=JumpReLU()), tmp_path / "set")


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / "transcoders.json").read_text())
    change(index)
    (folder / "transcoders.json").write_text(json.dumps(index))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the weights, and the size and digest in the index with them."""
    weights = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    size = (folder / WEIGHTS).stat().st_size
    edit_index(folder, lambda index: index["layers"][0].update(bytes=size, sha256=None))


def refusal(folder: Path, **options: object) -> TranscoderFormatError:
    with pytest.raises(TranscoderFormatError) as caught:
        load(folder, **options)
    return caught.value


def test_a_truncated_file(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1])
    error = refusal(folder)
    assert str(error) == (
        f"{WEIGHTS}: got {len(data) - 1:,} bytes; expected {len(data):,} bytes. "
        "The file is truncated: delete it and download or save the set again."
    )
    assert error.__notes__ == [f"while reading layer 3 of {folder} (format: tl_transcoders)"]


def test_a_truncated_file_of_the_size_indexed(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1])
    edit_index(folder, lambda index: index["layers"][0].update(bytes=len(data) - 1))
    error = refusal(folder)
    assert "no valid safetensors file" in error.got
    assert "truncated or damaged" in error.do


def test_a_transposed_weight(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({"W_dec": weights["W_dec"].T}))
    assert str(refusal(folder)) == (
        f"{WEIGHTS}, W_dec: got shape (7, 11); expected (feature=11, d_out=7). "
        "It looks transposed: save its transpose."
    )


def test_an_encoder_that_is_not_stored_by_feature(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({"W_enc.T": weights["W_enc.T"].T}))
    assert "transposed" in str(refusal(folder))


def test_a_weight_of_another_width(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update(b_enc=torch.ones(13)))
    assert refusal(folder).expected == "(feature=11)"


def test_a_transposed_target_axis(tmp_path: Path) -> None:
    folder = save(cross_layer(), tmp_path / "clt")
    path = folder / "layer_1.safetensors"
    weights = load_file(path)
    save_file({**weights, "W_dec": weights["W_dec"].movedim(0, 1).contiguous()}, path)
    error = refusal(folder)
    assert "(target=3, feature=11, d_out=7)" in error.expected
    assert "layer 1" in error.__notes__[0]


def test_missing_and_unknown_weights(folder: Path) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        weights["W_gate"] = weights.pop("threshold")

    edit_weights(folder, change)
    assert refusal(folder).got == "unknown keys ['W_gate'], missing keys ['threshold']"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_not_floating_point(folder: Path, dtype: torch.dtype) -> None:
    edit_weights(folder, lambda weights: weights.update(b_dec=torch.ones(7, dtype=dtype)))
    error = refusal(folder)
    assert error.where == f"{WEIGHTS}, b_dec"
    assert "floating-point" in error.expected


@pytest.mark.parametrize(
    ("value", "named"), [(torch.nan, "NaN"), (-torch.inf, "an infinite value")]
)
def test_weights_that_are_not_finite(folder: Path, value: float, named: str) -> None:
    edit_weights(folder, lambda weights: weights["W_dec"][5, 3].fill_(value))
    load(folder)
    error = refusal(folder, verify=True)
    assert (error.where, error.got) == (f"{WEIGHTS}, W_dec", named)


def test_one_changed_bit_is_seen_by_verify(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    load(folder)
    assert "SHA-256" in refusal(folder, verify=True).got


@pytest.mark.parametrize(
    "name",
    ["../layer_3.safetensors", "/etc/hostname", "a/../../x", "", ".", "..\\x", "C:x", "a\0b"],
)
def test_file_names_that_leave_the_folder(folder: Path, name: str) -> None:
    edit_index(folder, lambda index: index["layers"][0].update(file=name))
    error = refusal(folder)
    assert error.got in {"a file name that leaves the folder", "no such file"}
    assert name != "../layer_3.safetensors" or "Do not trust" in error.do


@pytest.mark.parametrize("file", [WEIGHTS, "transcoders.json"])
def test_symlinks_that_leave_the_folder(folder: Path, tmp_path: Path, file: str) -> None:
    (folder / file).rename(tmp_path / file)
    (folder / file).symlink_to(tmp_path / file)
    assert refusal(folder).got == "a file name that leaves the folder"


def test_a_snapshot_may_link_to_the_blobs_of_its_own_repository_only(
    folder: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "models--org--a" / "snapshots" / "1a2b3c"
    snapshot.mkdir(parents=True)
    (folder / "transcoders.json").rename(snapshot / "transcoders.json")
    for repository in ("models--org--a", "models--org--b"):
        blobs = tmp_path / repository / "blobs"
        blobs.mkdir(parents=True)
        (blobs / "blob").write_bytes((folder / WEIGHTS).read_bytes())
    (snapshot / WEIGHTS).symlink_to(tmp_path / "models--org--a" / "blobs" / "blob")
    load(snapshot)
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to(tmp_path / "models--org--b" / "blobs" / "blob")
    assert refusal(snapshot).got == "a file name that leaves the folder"


def test_symlinks_inside_the_folder_are_followed(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "weights")
    (folder / WEIGHTS).symlink_to("weights")
    load(folder)


def test_a_symlinked_folder_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    load(tmp_path / "link")


def test_a_missing_file(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert refusal(folder).got == "no such file"


def test_an_index_over_a_megabyte(folder: Path) -> None:
    (folder / "transcoders.json").write_bytes(b" " * 1_000_001)
    assert refusal(folder).got == "1,000,001 bytes"


@pytest.mark.parametrize("item", ["[],", "{},", "1.,", '"",'])
def test_an_index_of_many_small_things(folder: Path, item: str) -> None:
    load(folder)
    (folder / "transcoders.json").write_text('{"a": [' + item * 330_000 + "0]}")
    refused(folder)


def test_a_name_with_control_characters_is_shown_escaped(folder: Path) -> None:
    index = json.loads((folder / "transcoders.json").read_text())
    index["layers"][0]["file"] = "\x1b[2J\ud800\u202e.safetensors"
    (folder / "transcoders.json").write_text(json.dumps(index))
    message = str(refusal(folder))
    assert "\\x1b[2J\\ud800\\u202e.safetensors" in message
    assert message.isprintable()


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": 1}{', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\0"]
)
def test_an_index_that_is_no_json(folder: Path, text: str) -> None:
    (folder / "transcoders.json").write_text(text, encoding="utf-8")
    assert "no valid JSON" in refusal(folder).got


def test_an_index_that_is_no_text(folder: Path) -> None:
    (folder / "transcoders.json").write_bytes(b"\xff\xfe\x00\x80")
    assert "no valid JSON" in refusal(folder).got


def test_an_index_that_is_a_list(folder: Path) -> None:
    (folder / "transcoders.json").write_text("[]")
    assert refusal(folder).got == "a JSON list"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda i: i.update(version=2), "transcoders.json, version"),
        (lambda i: i.update(version="1"), "transcoders.json, version"),
        (lambda i: i.pop("format"), "transcoders.json, format"),
        (lambda i: i.update(kind="sae"), "transcoders.json, kind"),
        (lambda i: i.update(kind="cross_layer_transcoder"), "transcoders.json"),
        (lambda i: i.update(extra=1), "transcoders.json"),
        (lambda i: i.pop("model_name"), "transcoders.json"),
        (lambda i: i.update(model_name=1), "transcoders.json, model_name"),
        (lambda i: i.update(layers={}), "transcoders.json, layers"),
        (lambda i: i.update(layers=[]), "transcoders.json, layers"),
        (lambda i: i.update(layers=i["layers"] * 2), "transcoders.json, layers"),
        (lambda i: i.update(layers=["x"]), "transcoders.json, layers[0]"),
        (lambda i: i["layers"][0].update(layer=4), "transcoders.json, layers"),
        (lambda i: i["layers"][0].update(layer=True), "transcoders.json, layers[0], layer"),
        (lambda i: i["layers"][0].update(bytes="9"), "transcoders.json, layers[0], bytes"),
        (lambda i: i["layers"][0].update(other=1), "transcoders.json, layers[0]"),
        (lambda i: i["layers"][0].pop("config"), "transcoders.json, layers[0]"),
        (lambda i: i["layers"][0].update(config=None), "transcoders.json, layers[0], config"),
        (
            lambda i: i["layers"][0]["config"].update(n_features=0),
            "transcoders.json, layers[0], config, transcoder of layer 3",
        ),
        (
            lambda i: i["layers"][0]["config"].update(read="resid_pre"),
            "transcoders.json, layers[0], config, transcoder of layer 3",
        ),
        (
            lambda i: i["layers"][0]["config"].update(gated=True),
            "transcoders.json, layers[0], config, TranscoderConfig",
        ),
        (
            lambda i: i["layers"][0]["config"]["activation"].update(k=3),
            "transcoders.json, layers[0], config, activation jumprelu",
        ),
    ],
)
def test_an_index_that_says_something_else(
    folder: Path, change: Callable[[dict[str, Any]], object], where: str
) -> None:
    edit_index(folder, change)
    assert refusal(folder).where == where


def test_layers_the_set_does_not_hold(tmp_path: Path) -> None:
    folder = save(transcoder_set(1, 2), tmp_path / "set")
    assert str(refusal(folder, layers=[2, 7])) == (
        f"{folder}: got a request for layers [7]; expected some of the layers it holds, [1, 2]. "
        "Choose layers the set holds."
    )


def test_part_of_a_cross_layer_transcoder(tmp_path: Path) -> None:
    folder = save(cross_layer(), tmp_path / "clt")
    load(folder, layers=[5, 2, 1])
    with pytest.raises(ConfigError, match="decode into one another"):
        load(folder, layers=[1, 2])


def test_no_layers(folder: Path) -> None:
    with pytest.raises(ConfigError, match="at least one layer"):
        load(folder, layers=[])


def test_an_integer_dtype(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"got torch\.int8"):
        load(folder, dtype=torch.int8)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("")
    error = refusal(tmp_path)
    assert error.got == "1 files (model.safetensors)"
    assert "tl_transcoders" in error.expected


@pytest.mark.parametrize(
    "source",
    ["gpt3", "a/b/c", "./missing", "/missing", "~/missing", "org/re po", "", "org/", "a--b/c"],
)
def test_a_place_that_is_neither_folder_nor_repository(source: str) -> None:
    with pytest.raises(HubError) as caught:
        load(source)
    assert str(caught.value) == (
        f"{source!r}: got neither an existing folder nor the name of a repository or a known release; "
        'expected a folder, "org/repo" with an optional "@revision", or a name from '
        "tl_transcoders.releases(). Check the path or the spelling."
    )


def test_a_long_value_is_cut(folder: Path) -> None:
    index = json.loads((folder / "transcoders.json").read_text())
    (folder / "transcoders.json").write_text(json.dumps({**index, "kind": "x" * 900_000}))
    error = refusal(folder)
    assert len(error.got) > 900_000
    assert len(str(error)) < 2 * MAX_PART


@pytest.mark.parametrize(
    ("source", "meant"),
    [("gpt2", "'gpt2-dunefsky' or "), ("gpt2-dunefski", "'gpt2-dunefsky'?")],
)
def test_a_name_that_is_nearly_right(source: str, meant: str) -> None:
    with pytest.raises(HubError) as caught:
        load(source)
    assert caught.value.do.startswith(f"Did you mean {meant}")


def test_a_path_the_system_refuses() -> None:
    with pytest.raises(HubError, match=r"an error while reading: .*too long"):
        load("a" * 5000)


def test_a_file_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(HubError, match="Permission denied"):
        load(folder)


def test_paths_that_are_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HubError, match="got a file"):
        load(str(tmp_path / "file"))
    with pytest.raises(HubError, match="got nothing at this path"):
        load(tmp_path / "missing")


@pytest.mark.parametrize(("source", "revision"), [("org/repo@", None), ("org/repo@a", "b")])
def test_revisions_that_contradict(source: str, revision: str | None) -> None:
    with pytest.raises(HubError, match="expected one revision"):
        load(source, revision=revision)


def test_a_folder_has_no_revision(folder: Path) -> None:
    with pytest.raises(HubError, match="only repositories have revisions"):
        load(folder, revision="main")
