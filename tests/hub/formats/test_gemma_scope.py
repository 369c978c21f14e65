"""Gemma Scope's npz files: SAELens, the maths, taps, the choice of a set, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.hub.client import Client
from tests.hub.formats.compare import assert_computes, golden
from tests.hub.published.gemma_scope import CASES, L0S, D, arrays, write
from tests.hub.repositories import Hub
from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub import load
from tl_transcoders.transcoders import JumpReLU, TranscoderSet

FILE = "layer_3/width_16k/average_l0_89/params.npz"
SEED = 3089


def loaded(folder: Path, **options: object) -> TranscoderSet:
    found = load(folder, **options)
    assert isinstance(found, TranscoderSet)
    return found


def refusal(folder: Path, **options: object) -> TranscoderFormatError:
    with pytest.raises(TranscoderFormatError) as caught:
        load(folder, **options)
    return caught.value


def formula(w: dict[str, np.ndarray], x: Tensor) -> Tensor:
    """The output as published."""
    w_enc, b_enc, w_dec, b_dec, threshold = (torch.from_numpy(array) for array in w.values())
    pre = x @ w_enc + b_enc
    return (pre.relu() * (pre > threshold)) @ w_dec + b_dec


@pytest.mark.parametrize("case", CASES)
def test_sae_lens_computes_the_same(tmp_path: Path, case: str) -> None:
    folder = write(tmp_path, case=case)
    expected = golden("sae_lens_loaders", f"gemma_scope.{case}")
    assert_computes(loaded(folder, verify=True)[3], expected)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"])
def test_one_changed_weight_is_seen(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path)
    changed = arrays(SEED)
    changed[name] *= 1.5
    np.savez(folder / FILE, **changed)
    with pytest.raises(AssertionError):
        assert_computes(loaded(folder)[3], golden("sae_lens_loaders", "gemma_scope.transcoders"))


def test_it_follows_the_formula(tmp_path: Path) -> None:
    x = torch.randn(3, 7, D)
    found = loaded(write(tmp_path))[3](x)
    torch.testing.assert_close(found, formula(arrays(SEED), x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "read", "write_site"),
    [
        ("transcoders", "ln2_normalized", "mlp_out"),
        ("res", "resid_post", "resid_post"),
        ("mlp", "mlp_out", "mlp_out"),
        ("att", "z", "z"),
    ],
)
def test_the_config(tmp_path: Path, case: str, read: str, write_site: str) -> None:
    found = loaded(write(tmp_path, case=case))
    cfg = found[3].cfg
    assert found.layers == (0, 3)
    assert (cfg.d_in, cfg.d_out, cfg.n_features, cfg.activation) == (5, 5, 11, JumpReLU())
    assert (cfg.read, cfg.write, cfg.folded) == (read, write_site, False)
    assert found.origin.model_name == "google/gemma-2-2b"


def test_the_model_of_an_instruction_tuned_repository(tmp_path: Path) -> None:
    folder = write(tmp_path, case="res").rename(tmp_path / "gemma-scope-9b-it-res")
    assert loaded(folder).origin.model_name == "google/gemma-2-9b-it"


def test_a_folder_of_another_name(tmp_path: Path) -> None:
    folder = write(tmp_path).rename(tmp_path / "mine")
    with pytest.raises(ConfigError, match="Pass kind="):
        load(folder)
    assert loaded(folder, kind="res")[0].cfg.read == "resid_post"
    with pytest.raises(ConfigError, match="got kind='sae'"):
        load(folder, kind="sae")


def test_a_kind_that_the_name_contradicts(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert loaded(folder, kind="transcoders").layers == (0, 3)
    with pytest.raises(ConfigError, match="got kind='res'"):
        load(folder, kind="res")


@pytest.fixture
def several(tmp_path: Path) -> Path:
    return write(tmp_path, widths=("16k", "65k"), l0s=L0S)


def test_the_nearest_l0_of_each_layer(several: Path) -> None:
    x = torch.randn(3, D)
    found = loaded(several, width="16k", l0="~70")
    for layer, l0 in ((0, 76), (3, 89)):
        expected = formula(arrays(1000 * layer + l0), x)
        torch.testing.assert_close(found[layer](x), expected, rtol=1e-5, atol=1e-5)


def test_one_l0(several: Path) -> None:
    assert loaded(several, layers=[3], width="65k", l0=17)[3].cfg.n_features == 13


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"width": "16k"},
        {"l0": 76, "layers": [0]},
        {"width": "16k", "l0": 76},
        {"width": "32k", "l0": 76},
        {"width": "16k", "l0": "small"},
    ],
)
def test_several_sets_and_no_clear_choice(several: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(several, **options)
    assert "width='16k' with l0" in caught.value.expected
    assert "width='65k' with l0" in caught.value.expected


def test_two_equally_near(tmp_path: Path) -> None:
    folder = write(tmp_path, l0s={0: (60, 80)})
    with pytest.raises(ConfigError, match="fits 2 of its sets"):
        load(folder, l0="~70")


def test_only_what_is_asked_for_is_downloaded(hub: Hub, client: Client, several: Path) -> None:
    repo_id = "google/gemma-scope-2b-pt-transcoders"
    commit = hub.publish(repo_id, several)
    found = client.run(load, repo_id, layers=[3], width="16k", l0=89)
    sent = [r for r in hub.requests if "params.npz" in r and r.startswith(("GET", "HEAD"))]
    assert sent
    assert all("layer_3/width_16k/average_l0_89" in request for request in sent)
    assert (found.origin.source, found.origin.revision) == (repo_id, commit)
    with pytest.raises(ConfigError, match="fits 4 of its sets"):
        client.run(load, repo_id, layers=[3])


def test_the_cache_serves_offline(hub: Hub, client: Client, offline: Client, several: Path) -> None:
    repo_id = "google/gemma-scope-2b-pt-transcoders"
    hub.publish(repo_id, several)
    client.run(load, repo_id, layers=[3], width="16k", l0=17)
    assert offline.run(load, repo_id, layers=[3], width="16k", l0=17).layers == (3,)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"W_enc": np.zeros((11, 5), np.float32)}, "shape (11,)"),
        ({"W_dec": np.zeros((5, 11), np.float32)}, "shape (5, 11)"),
        ({"W_enc": np.zeros(5, np.float32)}, "shape (5,)"),
        ({"W_enc": np.zeros((0, 0), np.float32)}, "d_in=0"),
        ({"b_dec": np.zeros(5, np.int64)}, "<i8"),
        ({"b_dec": np.zeros(5, ">f4")}, ">f4"),
        ({"b_dec": np.zeros(5, np.float64)}, "weights of torch.float32 and torch.float64"),
        ({"b_dec": np.full(5, np.nan, np.float32)}, "NaN"),
        ({"extra": np.zeros(5, np.float32)}, "unknown keys ['extra']"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, change: dict[str, np.ndarray], got: str) -> None:
    folder = write(tmp_path)
    np.savez(folder / FILE, **{**arrays(SEED), **change})
    error = refusal(folder, verify=True)
    assert got in error.got
    assert error.__notes__ == [f"while reading layer 3 of {folder} (format: Gemma Scope)"]


def test_arrays_in_the_order_of_fortran(tmp_path: Path) -> None:
    folder = write(tmp_path)
    np.savez(folder / FILE, **{k: np.asfortranarray(v) for k, v in arrays(SEED).items()})
    x = torch.randn(3, D)
    expected = formula(arrays(SEED), x)
    torch.testing.assert_close(loaded(folder)[3](x), expected, rtol=1e-5, atol=1e-5)


def test_a_missing_array(tmp_path: Path) -> None:
    folder = write(tmp_path)
    np.savez(folder / FILE, b_enc=np.zeros(3, np.float32))
    assert refusal(folder).got == "nothing"


def test_compressed_arrays(tmp_path: Path) -> None:
    folder = write(tmp_path)
    np.savez_compressed(folder / FILE, **arrays(SEED))
    assert refusal(folder).got == "a compressed member"
