"""Dunefsky et al.'s files: the maths, the tensors that torch.load finds, taps, and what is refused."""

import pickletools
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from torch import Tensor

from tests.hub.client import Client
from tests.hub.published.dunefsky import D_IN, FEATURES, config, content, tensors, trainer, write
from tests.hub.repositories import Hub
from tests.hub.test_laziness import _mapped
from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub import load
from tl_transcoders.hub.torch_file import read_torch
from tl_transcoders.hub.unpickle import Record
from tl_transcoders.transcoders import ReLU, Transcoder, TranscoderSet

NAME = "final_sparse_autoencoder_gpt2-small_blocks.{}.ln2.hook_normalized_11.pt"


def loaded(folder: Path, **options: object) -> TranscoderSet:
    found = load(folder, **options)
    assert isinstance(found, TranscoderSet)
    return found


def formula(w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and output as published."""
    post = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    return post, post @ w["W_dec"] + w.get("b_dec_out", w["b_dec"])


def assert_follows(transcoder: Transcoder, w: dict[str, Tensor]) -> None:
    x = torch.randn(3, 7, D_IN)
    post, y = formula(w, x)
    torch.testing.assert_close(transcoder.encode(x), post, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(transcoder(x), y, rtol=1e-5, atol=1e-5)


def rewrite(folder: Path, *, layer: int = 3, **changes: object) -> Path:
    """Save the layer's file again with `changes` of its config; None leaves an attribute out."""
    cfg = {k: v for k, v in {**config(layer, "transcoder"), **changes}.items() if v is not None}
    path = folder / NAME.format(layer)
    with trainer():
        torch.save(content(cfg, tensors("transcoder", layer)), path)
    return path


def refusal(folder: Path, **options: object) -> TranscoderFormatError:
    with pytest.raises(TranscoderFormatError) as caught:
        load(folder, **options)
    return caught.value


@pytest.mark.parametrize("case", ["transcoder", "sae"])
def test_it_follows_the_formula(tmp_path: Path, case: str) -> None:
    write(tmp_path, case=case)
    for layer, transcoder in loaded(tmp_path, verify=True).items():
        assert_follows(transcoder, tensors(case, layer))


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "b_dec_out"])
def test_one_changed_weight_is_seen(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    changed = tensors("transcoder", 3)
    changed[name] += 0.1
    with pytest.raises(AssertionError):
        assert_follows(loaded(tmp_path)[3], changed)


@pytest.mark.parametrize("case", ["transcoder", "sae"])
def test_the_content_is_what_torch_loads(tmp_path: Path, case: str) -> None:
    write(tmp_path, case=case, layers=(1,))
    path = next(tmp_path.glob("*_11.pt"))
    with trainer():
        expected = torch.load(path, weights_only=False)
    found = read_torch(path)
    assert isinstance(found, dict)
    assert isinstance(found["cfg"], Record)
    state = found["cfg"].state
    plain = {k: v for k, v in vars(expected["cfg"]).items() if k not in ("dtype", "device")}
    assert {k: state[k] for k in plain} == plain
    assert state["device"] == "cuda"
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    for key, tensor in expected["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][key], tensor, rtol=0, atol=0)


def test_the_config_of_a_transcoder(tmp_path: Path) -> None:
    write(tmp_path)
    found = loaded(tmp_path)
    cfg = found[3].cfg
    assert found.layers == (1, 3)
    assert (cfg.d_in, cfg.d_out, cfg.n_features, cfg.activation) == (5, 7, 11, ReLU())
    assert (cfg.read, cfg.write, cfg.folded) == ("ln2_normalized", "mlp_out", True)
    assert (found.origin.model_name, found.origin.source) == ("gpt2-small", str(tmp_path))
    assert not any(parameter.requires_grad for parameter in found[3].parameters())


def test_the_config_of_an_sae(tmp_path: Path) -> None:
    write(tmp_path, case="sae")
    cfg = loaded(tmp_path)[3].cfg
    assert (cfg.d_out, cfg.read, cfg.write, cfg.is_sae) == (5, "resid_pre", "resid_pre", True)


def test_the_decoder_lies_in_the_file(tmp_path: Path) -> None:
    write(tmp_path, layers=(3,))
    transcoder = loaded(tmp_path)[3]
    mapped = _mapped(tmp_path / NAME.format(3))
    assert any(transcoder.W_dec.data_ptr() in span for span in mapped)


def test_a_conversion(tmp_path: Path) -> None:
    write(tmp_path)
    assert {p.dtype for p in loaded(tmp_path, dtype=torch.bfloat16)[1].parameters()} == {
        torch.bfloat16
    }


def test_only_the_layers_asked_for_are_downloaded(hub: Hub, client: Client, tmp_path: Path) -> None:
    write(tmp_path)
    commit = hub.publish("org/dunefsky", tmp_path)
    found = client.run(load, "org/dunefsky", layers=[3])
    assert hub.downloads() == {NAME.format(3)}
    assert_follows(found[3], tensors("transcoder", 3))
    assert found.origin.revision == commit
    assert client.run(load, "org/dunefsky").layers == (1, 3)


def test_the_cache_serves_the_layers_asked_for_offline(
    hub: Hub, client: Client, offline: Client, tmp_path: Path
) -> None:
    write(tmp_path)
    hub.publish("org/dunefsky-cached", tmp_path)
    client.run(load, "org/dunefsky-cached", layers=[1])
    assert offline.run(load, "org/dunefsky-cached", layers=[1]).layers == (1,)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"hook_point": "blocks.1.ln2.hook_normalized"}, ""),
        ({"hook_point": "blocks.3.mlp.hook_pre"}, ", cfg, hook_point"),
        ({"hook_point": None}, ", cfg, hook_point"),
        ({"hook_point": "blocks.3.hook_resid_post"}, ", transcoder of layer 3"),
        ({"out_hook_point": 7}, ", cfg, out_hook_point"),
        ({"out_hook_point": "hook_mlp_out"}, ", cfg, out_hook_point"),
        ({"is_transcoder": "yes"}, ", cfg, is_transcoder"),
        ({"is_transcoder": False}, ", transcoder of layer 3"),
        ({"d_in": 0}, ", transcoder of layer 3"),
        ({"d_in": 7}, ", W_enc"),
        ({"d_in": True}, ", cfg, d_in"),
        ({"d_sae": 12}, ", W_enc"),
        ({"d_sae": [[]]}, ", cfg, d_sae"),
        ({"d_out": 10**200}, ", cfg, d_out"),
        ({"model_name": 3}, ", cfg, model_name"),
    ],
)
def test_a_config_that_says_something_else(
    tmp_path: Path, changes: dict[str, object], where: str
) -> None:
    path = rewrite(tmp_path, **changes)
    error = refusal(tmp_path)
    assert error.where == path.name + where
    assert error.__notes__ == [f"while reading layer 3 of {tmp_path} (format: dunefsky)"]


@pytest.mark.parametrize(
    ("name", "change", "got"),
    [
        ("W_dec", lambda w: w.T, "shape (7, 11)"),
        ("b_dec", lambda w: w.long(), "dtype torch.int64"),
        ("b_enc", lambda w: w.half(), "weights of torch.float16 and torch.float32"),
        ("W_enc", lambda w: w * torch.nan, "NaN"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, name: str, change: object, got: str) -> None:
    weights = tensors("transcoder", 3)
    weights[name] = change(weights[name])  # pyright: ignore[reportCallIssue]
    with trainer():
        saved = content(config(3, "transcoder"), {})
        torch.save({**saved, "state_dict": weights}, tmp_path / NAME.format(3))
    assert refusal(tmp_path, verify=True).got == got


@pytest.mark.parametrize("value", [[], {"cfg": {}, "state_dict": {}}, {"cfg": 1}])
def test_other_content(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / NAME.format(3))
    assert refusal(tmp_path).got == "other content"


def test_other_values_among_the_weights(tmp_path: Path) -> None:
    with trainer():
        saved = content(config(3, "transcoder"), {})
        torch.save({**saved, "state_dict": {"W_enc": "x"}}, tmp_path / NAME.format(3))
    assert "other values" in refusal(tmp_path).got


def test_two_sets_in_one_folder(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path / "again")
    assert refusal(tmp_path).got == "several for one layer"


def test_a_choice_of_a_variant(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match="only one"):
        load(tmp_path, width="24576")


def test_the_class_is_saved_under_the_trainers_name(tmp_path: Path) -> None:
    write(tmp_path, layers=(3,))
    with ZipFile(tmp_path / NAME.format(3)) as archive:
        pickle = next(archive.read(n) for n in archive.namelist() if n.endswith("data.pkl"))
    names = {
        argument for opcode, argument, _ in pickletools.genops(pickle) if opcode.name == "GLOBAL"
    }
    assert "sae_training.config LanguageModelSAERunnerConfig" in names
    assert FEATURES == 11
