"""dictionary_learning's folders: the package itself, SAELens, the maths, the choice of a set, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.hub.client import Client
from tests.hub.formats.compare import assert_computes, golden
from tests.hub.published.dictionary_learning import CASES, D, tensors, write, write_trainer
from tests.hub.repositories import Hub
from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub import load
from tl_transcoders.transcoders import BatchTopK, JumpReLU, ReLU, TopK, Transcoder, TranscoderSet

TRAINER = "resid_post_layer_3/trainer_0"


def loaded(folder: Path, **options: object) -> TranscoderSet:
    found = load(folder, **options)
    assert isinstance(found, TranscoderSet)
    return found


def refusal(folder: Path, **options: object) -> TranscoderFormatError:
    with pytest.raises(TranscoderFormatError) as caught:
        load(folder, **options)
    return caught.value


def edit(folder: Path, **changes: object) -> None:
    path = folder / TRAINER / "config.json"
    config = json.loads(path.read_text())
    config["trainer"].update(changes)
    path.write_text(json.dumps(config))


def change(folder: Path, case: str, edit_state: Callable[[dict[str, Any]], object]) -> None:
    state = tensors(case, 3)
    edit_state(state)
    torch.save(state, folder / TRAINER / "ae.pt")


@pytest.mark.parametrize("case", CASES)
def test_dictionary_learning_computes_the_same(tmp_path: Path, case: str) -> None:
    write(tmp_path, case=case)
    assert_computes(loaded(tmp_path, verify=True)[3], golden("dictionary_learning", case))


@pytest.mark.parametrize("case", [case for case in CASES if case != "AutoEncoderNew"])
def test_sae_lens_computes_the_same(tmp_path: Path, case: str) -> None:
    write(tmp_path, case=case)
    expected = golden("sae_lens_loaders", f"dictionary_learning.{case}")
    assert_computes(loaded(tmp_path)[3], expected)


@pytest.mark.parametrize("case", CASES)
def test_one_changed_weight_is_seen(tmp_path: Path, case: str) -> None:
    write(tmp_path, case=case)
    expected = golden("dictionary_learning", case)
    for name, tensor in tensors(case, 3).items():
        if tensor.ndim and tensor.is_floating_point():
            change(tmp_path, case, lambda state, name=name: state[name].add_(0.7))
            with pytest.raises(AssertionError):
                assert_computes(loaded(tmp_path)[3], expected)


def formula(case: str, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """The output as published."""
    match case:
        case "GatedAutoEncoder":
            pi = (x - w["decoder_bias"]) @ w["encoder.weight"].T
            magnitude = (w["r_mag"].exp() * pi + w["mag_bias"]).relu()
            post = magnitude * (pi + w["gate_bias"] > 0)
            return post @ w["decoder.weight"].T + w["decoder_bias"]
        case "BatchTopKSAE":
            pre = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
            post = pre.relu() * (pre.relu() > w["threshold"])
            return post @ w["decoder.weight"].T + w["b_dec"]
        case _:
            pre = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
            top = pre.relu().topk(int(w["k"]))
            post = torch.zeros_like(pre).scatter(-1, top.indices, top.values)
            return post @ w["decoder.weight"].T + w["b_dec"]


@pytest.mark.parametrize("case", ["GatedAutoEncoder", "BatchTopKSAE", "AutoEncoderTopK"])
def test_it_follows_the_formula(tmp_path: Path, case: str) -> None:
    write(tmp_path, case=case)
    x = torch.randn(3, 7, D)
    expected = formula(case, tensors(case, 3), x)
    torch.testing.assert_close(loaded(tmp_path)[3](x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "activation"),
    [
        ("AutoEncoder", ReLU()),
        ("GatedAutoEncoder", JumpReLU()),
        ("AutoEncoderTopK", TopK(3)),
        ("MatryoshkaBatchTopKSAE", BatchTopK(3)),
    ],
)
def test_the_config(tmp_path: Path, case: str, activation: object) -> None:
    write(tmp_path, case=case)
    found = loaded(tmp_path)
    cfg = found[3].cfg
    assert (cfg.d_in, cfg.d_out, cfg.n_features, cfg.activation) == (5, 5, 11, activation)
    assert (cfg.read, cfg.write, cfg.folded) == ("resid_post", "resid_post", False)
    assert found.layers == (1, 3)
    assert found.origin.model_name == "EleutherAI/pythia-70m-deduped"
    assert not any(parameter.requires_grad for parameter in found[3].parameters())


def test_a_single_trainers_folder(tmp_path: Path) -> None:
    write_trainer(tmp_path, 6, "AutoEncoder", 0)
    assert loaded(tmp_path).layers == (6,)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for layer in (1, 3):
        for number, k in enumerate((2, 3)):
            trainer = f"resid_post_layer_{layer}/trainer_{number}"
            write_trainer(tmp_path / trainer, layer, "AutoEncoderTopK", 0, k=k)
        checkpoint = f"resid_post_layer_{layer}_checkpoints/trainer_0_step_7"
        write_trainer(tmp_path / checkpoint, layer, "AutoEncoderTopK", 1, k=2)
    return tmp_path


def test_a_set_is_chosen_by_k_or_by_name(sweep: Path) -> None:
    assert {t.cfg.activation for t in loaded(sweep, l0=3).values()} == {TopK(3)}
    assert {t.cfg.activation for t in loaded(sweep, kind="*/trainer_0").values()} == {TopK(2)}
    assert loaded(sweep, kind="*_step_7", layers=[3]).layers == (3,)
    assert loaded(sweep, width="11", l0="2").layers == (1, 3)


def test_several_sets_and_no_choice(sweep: Path) -> None:
    with pytest.raises(ConfigError, match="folders that serve this layer") as caught:
        load(sweep)
    assert "resid_post_layer_1/trainer_1" in caught.value.expected
    with pytest.raises(ConfigError, match="Choose folders by name"):
        load(sweep, kind="*/trainer_9")
    with pytest.raises(ConfigError, match=r"got layers=\[9\]; expected .*'resid_post_layer_1"):
        load(sweep, layers=[9])
    with pytest.raises(ConfigError, match="layers they serve"):
        load(sweep, layers=[2])
    with pytest.raises(ConfigError, match="expected one of width=11 with l0=2; width=11 with l0=3"):
        load(sweep, width="12")


def test_only_what_is_asked_for_is_downloaded(hub: Hub, client: Client, sweep: Path) -> None:
    hub.publish("org/dictionaries", sweep)
    found = client.run(load, "org/dictionaries", layers=[3], kind="*/trainer_1")
    assert found[3].cfg.activation == TopK(3)
    sent = [path for path in hub.requests if "ae.pt" in path or "config.json" in path]
    assert all("resid_post_layer_3/trainer_1/" in path for path in sent)
    assert client.run(load, "org/dictionaries", l0=2).layers == (1, 3)


def test_the_cache_serves_offline(hub: Hub, client: Client, offline: Client, sweep: Path) -> None:
    hub.publish("org/dictionaries-cached", sweep)
    options: dict[str, Any] = {"layers": [3], "kind": "*/trainer_1"}
    client.run(load, "org/dictionaries-cached", **options)
    assert offline.run(load, "org/dictionaries-cached", **options).layers == (3,)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"dict_class": "IdentityDict"}, ", trainer, dict_class"),
        ({"dict_class": None}, ", trainer, dict_class"),
        ({"submodule_name": "mlp_out_layer_3"}, ", trainer, submodule_name"),
        ({"layer": 4}, ", trainer, layer"),
        ({"layer": "3"}, ", trainer, layer"),
        ({"k": 0}, ", trainer, k"),
        ({"k": 12}, ", trainer, transcoder of layer 3"),
        ({"activation_dim": -5}, ", trainer, transcoder of layer 3"),
        ({"activation_dim": [[]]}, ", trainer, activation_dim"),
        ({"lm_name": 5}, ", trainer, lm_name"),
    ],
)
def test_a_config_that_says_something_else(
    tmp_path: Path, changes: dict[str, object], where: str
) -> None:
    write(tmp_path)
    edit(tmp_path, **changes)
    assert refusal(tmp_path).where == f"{TRAINER}/config.json{where}"


@pytest.mark.parametrize("text", ["{}", "[]", '{"trainer": 3}', "{"])
def test_a_config_that_is_none(tmp_path: Path, text: str) -> None:
    write(tmp_path)
    (tmp_path / TRAINER / "config.json").write_text(text)
    assert "config.json" in refusal(tmp_path).where


@pytest.mark.parametrize(
    ("edit_state", "got"),
    [
        (lambda w: w.update(k=torch.tensor(4)), "another k"),
        (lambda w: w.update(k=torch.ones(2)), "2 values"),
        (lambda w: w.pop("threshold"), "missing keys ['threshold']"),
        (lambda w: w.update(threshold=torch.ones(2)), "shape (2,)"),
        (lambda w: w.update(extra=torch.ones(2)), "unknown keys ['extra']"),
        (lambda w: w.update(extra="x"), "other values"),
        (
            lambda w: w.update(b_dec=w["b_dec"].double()),
            "weights of torch.float32 and torch.float64",
        ),
        (lambda w: w.update({"decoder.weight": w["decoder.weight"].T}), "shape (11, 5)"),
        (lambda w: w["b_dec"].fill_(torch.inf), "infinite"),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: Path, edit_state: Callable[[dict[str, Any]], object], got: str
) -> None:
    write(tmp_path)
    change(tmp_path, "BatchTopKSAE", edit_state)
    error = refusal(tmp_path, verify=True)
    assert got in error.got
    assert error.__notes__ == [f"while reading layer 3 of {tmp_path} (format: dictionary_learning)"]


def test_a_file_of_something_else(tmp_path: Path) -> None:
    write(tmp_path)
    torch.save([torch.ones(3)], tmp_path / TRAINER / "ae.pt")
    assert "other values" in refusal(tmp_path).got


def test_the_encoder_lies_in_the_file(tmp_path: Path) -> None:
    write(tmp_path)
    transcoder = loaded(tmp_path)[3]
    assert isinstance(transcoder, Transcoder)
    assert transcoder.W_enc.T.is_contiguous()
