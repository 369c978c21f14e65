"""To and from SAELens; what SAELens computes with our exports was recorded in its own environment."""

from pathlib import Path

import pytest
import torch

from tests.hub.formats.compare import assert_computes, golden, load_set
from tests.hub.interop.exported import CASES, exported
from tests.hub.interop.stand_ins import stand_in
from tests.hub.published.sae_lens import write
from tests.hub.samples import assert_same, cross_layer, transcoder
from tl_transcoders.errors import ConfigError, HubError, TranscoderFormatError
from tl_transcoders.hub import from_sae_lens, save_sae_lens, to_sae_lens
from tl_transcoders.transcoders import (
    BatchTopK,
    JumpReLU,
    Origin,
    TopK,
    Transcoder,
    TranscoderSet,
)

WEIGHTS = "sae_weights.safetensors"


def assert_same_weights(found: Transcoder, expected: Transcoder) -> None:
    """The same bits; a skip that is stored transposed may lie otherwise in memory."""
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_sae_lens_computes_the_same_with_an_export(case: str) -> None:
    expected, changed = golden("exported", case), exported(case)
    assert_computes(exported(case), expected)
    changed.W_dec.data[expected["post"].sum((0, 1)).argmax(), 1] += 0.1
    with pytest.raises(AssertionError):
        assert_computes(changed, expected)


@pytest.mark.parametrize("case", CASES)
def test_an_export_is_read_back(tmp_path: Path, case: str) -> None:
    original = exported(case)
    found = load_set(save_sae_lens(original, tmp_path / "set"), verify=True)[3]
    assert_same_weights(found, original)
    activation = original.cfg.activation
    as_read = JumpReLU() if isinstance(activation, BatchTopK) else activation
    assert found.cfg.activation == as_read
    assert (found.cfg.read, found.cfg.write) == (original.cfg.read, original.cfg.write)


def test_a_whole_set(tmp_path: Path) -> None:
    made = TranscoderSet(
        {layer: exported("skip_transcoder", layer=layer) for layer in (1, 3)},
        origin=Origin(model_name="gpt2"),
    )
    found = load_set(save_sae_lens(made, tmp_path / "set"))
    assert (found.layers, found.origin.model_name) == ((1, 3), "gpt2")
    for layer in (1, 3):
        assert found[layer].cfg == made[layer].cfg
        assert_same_weights(found[layer], made[layer])


def test_a_folded_set_stays_folded(tmp_path: Path) -> None:
    assert load_set(save_sae_lens(transcoder(), tmp_path / "set"))[3].cfg.folded


def test_dtypes_are_kept(tmp_path: Path) -> None:
    half = transcoder(dtype=torch.bfloat16)
    assert_same_weights(load_set(save_sae_lens(half, tmp_path / "set"))[3], half)


def test_an_object_is_what_its_folder_is(tmp_path: Path) -> None:
    write(tmp_path, case="gated", layers=(3,))
    found, loaded = from_sae_lens(stand_in(tmp_path, WEIGHTS)), load_set(tmp_path)[3]
    assert_same(found, loaded)


def test_weights_without_a_fold_share_memory(tmp_path: Path) -> None:
    write(tmp_path, case="transcoder", layers=(3,))
    sae = stand_in(tmp_path, WEIGHTS)
    assert from_sae_lens(sae).W_dec.data_ptr() == sae.state["W_dec"].data_ptr()


def test_an_object_that_cannot_be_expressed(tmp_path: Path) -> None:
    write(tmp_path, case="scaled", layers=(3,))
    with pytest.raises(ConfigError, match="fold_activation_norm_scaling_factor"):
        from_sae_lens(stand_in(tmp_path, WEIGHTS))
    write(tmp_path, case="standard", layers=(3,))
    sae = stand_in(tmp_path, WEIGHTS)
    del sae.state["b_enc"]
    with pytest.raises(ConfigError, match=r"missing tensors \['b_enc'\]"):
        from_sae_lens(sae)
    sae.cfg.data["architecture"] = "temporal"
    with pytest.raises(TranscoderFormatError, match="cfg of StandIn, architecture"):
        from_sae_lens(sae)


def test_what_sae_lens_has_no_architecture_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got a TopK transcoder"):
        save_sae_lens(transcoder(activation=TopK(2)), tmp_path / "set")
    with pytest.raises(ConfigError, match="cross-layer"):
        save_sae_lens(cross_layer(), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(HubError, match="not empty"):
        save_sae_lens(transcoder(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_sae_lens_is_not_here() -> None:
    with pytest.raises(ConfigError, match="save_sae_lens"):
        to_sae_lens(exported("transcoder"))
