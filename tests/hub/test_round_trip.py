"""Save then load is the identity."""

import json
from pathlib import Path

import pytest
import torch

from tests.hub.samples import ACTIVATIONS, assert_same, cross_layer, transcoder, transcoder_set
from tl_transcoders.hub import load, save
from tl_transcoders.splice import HookedTranscoder
from tl_transcoders.transcoders import (
    Activation,
    CrossLayerTranscoder,
    Origin,
    TopK,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)


def _load_set(*args: object, **kwargs: object) -> TranscoderSet:
    loaded = load(*args, **kwargs)
    assert isinstance(loaded, TranscoderSet)
    return loaded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_every_kind_of_transcoder(
    tmp_path: Path, activation: Activation, skip: bool, dtype: torch.dtype
) -> None:
    original = transcoder(activation=activation, skip=skip, dtype=dtype)
    loaded = _load_set(save(original, tmp_path / "set"), verify=True)
    assert loaded.layers == (3,)
    assert_same(loaded[3], original)
    x = torch.randn(3, 7, 5, dtype=dtype)
    torch.testing.assert_close(loaded[3](x), original(x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_every_kind_of_cross_layer_transcoder(
    tmp_path: Path, activation: Activation, skip: bool, dtype: torch.dtype
) -> None:
    original = cross_layer(activation=activation, skip=skip, dtype=dtype)
    loaded = load(save(original, tmp_path / "clt"), verify=True)
    assert isinstance(loaded, CrossLayerTranscoder)
    assert_same(loaded, original)
    assert sorted(p.name for p in (tmp_path / "clt").glob("layer_*")) == [
        f"layer_{layer}.safetensors" for layer in (1, 2, 5)
    ]


def test_widths_activations_and_sites_may_differ_between_layers(tmp_path: Path) -> None:
    sae = TranscoderConfig(
        layer=6, d_in=5, d_out=5, n_features=13, read="resid_post", write="resid_post"
    )
    original = TranscoderSet(
        {
            2: transcoder(2, n_features=11),
            4: transcoder(4, n_features=17, activation=TopK(2), skip=False, d_out=5),
            6: Transcoder.init(sae, seed=0),
        },
        origin=Origin(model_name="gpt2", source="elsewhere", revision="1a2b3c"),
    )
    loaded = _load_set(save(original, tmp_path / "set"))
    assert loaded.layers == (2, 4, 6)
    for layer in original:
        assert_same(loaded[layer], original[layer])
    assert loaded.origin == Origin(model_name="gpt2", source=str(tmp_path / "set"))


def test_the_comparison_sees_one_changed_bit() -> None:
    original, changed = transcoder(), transcoder()
    assert_same(changed, original)
    changed.W_dec.data[7, 3] = changed.W_dec.data[7, 3].nextafter(torch.tensor(9.0))
    with pytest.raises(AssertionError, match="not equal"):
        assert_same(changed, original)


def test_a_decoder_tied_to_its_encoder_is_saved(tmp_path: Path) -> None:
    cfg = TranscoderConfig(layer=0, d_in=5, d_out=5, n_features=11)
    rows = torch.randn(11, 5)
    tied = Transcoder(cfg, W_enc=rows.T, b_enc=torch.ones(11), W_dec=rows, b_dec=torch.ones(5))
    assert tied.W_enc.data_ptr() == tied.W_dec.data_ptr()
    assert_same(_load_set(save(tied, tmp_path / "set"))[0], tied)


@pytest.mark.parametrize("layers", [None, [5, 2], [1]])
def test_an_index_in_another_order_gives_every_layer_its_own_weights(
    tmp_path: Path, layers: list[int] | None
) -> None:
    original = transcoder_set(1, 2, 5)
    folder = save(original, tmp_path / "set")
    index = json.loads((folder / "transcoders.json").read_text())
    index["layers"] = [index["layers"][i] for i in (2, 0, 1)]
    (folder / "transcoders.json").write_text(json.dumps(index))
    loaded = _load_set(folder, layers=layers, verify=True)
    assert loaded.layers == tuple(sorted(layers or original.layers))
    for layer in loaded:
        assert_same(loaded[layer], original[layer])


def test_one_layer_by_name_in_the_dtype_asked_for(tmp_path: Path) -> None:
    folder = save(transcoder_set(1, 2), tmp_path / "set")
    hooked = HookedTranscoder.from_pretrained(folder, layer=2, dtype=torch.float64, device="cpu")
    assert_same(hooked.transcoder, transcoder_set(1, 2)[2].double())


def test_weights_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    cfg = TranscoderConfig(layer=0, d_in=5, d_out=5, n_features=11)
    buffer = torch.randn(11 * 5)
    both = {"W_dec": buffer.view(11, 5), "b_dec": buffer[50:]}
    shared = Transcoder(cfg, W_enc=torch.randn(5, 11), b_enc=torch.ones(11), **both)
    assert_same(_load_set(save(shared, tmp_path / "set"))[0], shared)


def test_some_layers_in_any_order(tmp_path: Path) -> None:
    original = transcoder_set(1, 2, 3, 5)
    folder = save(original, tmp_path / "set")
    loaded = _load_set(folder, layers=iter([5, 2, 5]))
    assert loaded.layers == (2, 5)
    assert_same(loaded[5], original[5])


def test_only_the_files_of_those_layers_are_needed(tmp_path: Path) -> None:
    folder = save(transcoder_set(1, 2), tmp_path / "set")
    (folder / "layer_2.safetensors").unlink()
    assert _load_set(folder, layers=[1]).layers == (1,)


def test_conversion(tmp_path: Path) -> None:
    original = transcoder()
    loaded = _load_set(save(original, tmp_path / "set"), dtype=torch.bfloat16, device="cpu")[3]
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded.W_enc, original.W_enc.bfloat16())
    assert loaded.W_enc.T.is_contiguous()


def test_parameters_ask_for_no_gradient_and_a_feature_is_contiguous(tmp_path: Path) -> None:
    for original in (transcoder(), cross_layer()):
        folder = save(original, tmp_path / type(original).__name__)
        loaded = load(folder)
        module = loaded[3] if isinstance(loaded, TranscoderSet) else loaded
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert isinstance(loaded, CrossLayerTranscoder)
    assert all(weight[:, 4].is_contiguous() for weight in loaded.W_enc)


def test_changing_loaded_weights_leaves_the_file_alone(tmp_path: Path) -> None:
    original = transcoder()
    folder = save(original, tmp_path / "set")
    _load_set(folder)[3].W_dec.data.zero_()
    assert_same(_load_set(folder, verify=True)[3], original)


def test_a_folder_may_be_given_as_string_or_path(tmp_path: Path) -> None:
    folder = save(transcoder(), str(tmp_path / "set"))
    assert folder == tmp_path / "set"
    assert _load_set(str(folder)).origin.source == _load_set(folder).origin.source == str(folder)
