"""What holds for every layout that is read from safetensors files."""

from pathlib import Path

import torch

from tests.hub.formats.layouts import Layout
from tl_transcoders.hub import load, save
from tl_transcoders.transcoders import CrossLayerTranscoder, TranscoderSet


def test_honest_files_are_accepted(layout: Layout, folder: Path) -> None:
    found = load(folder, **layout.request, verify=True)
    assert set(layout.request.get("layers", found.layers)) == set(found.layers)


def test_conversion(layout: Layout, folder: Path) -> None:
    stored = _weights(load(folder, **layout.request))
    for name, half in _weights(load(folder, **layout.request, dtype=torch.bfloat16)).items():
        assert half.dtype is torch.bfloat16
        torch.testing.assert_close(half, stored[name].bfloat16(), rtol=0, atol=0)


def _weights(found: TranscoderSet | CrossLayerTranscoder) -> dict[str, torch.Tensor]:
    modules = found.values() if isinstance(found, TranscoderSet) else (found,)
    return {name: weight for module in modules for name, weight in module.named_parameters()}


def test_a_set_can_be_saved_in_our_own_layout(layout: Layout, folder: Path, tmp_path: Path) -> None:
    found = load(folder, **layout.request)
    again = load(save(found, tmp_path / "ours"), verify=True)
    assert again.origin.model_name == found.origin.model_name
    for name, weight in _weights(again).items():
        torch.testing.assert_close(weight, _weights(found)[name], rtol=0, atol=0)


def test_loaded_weights_ask_for_no_gradient(layout: Layout, folder: Path) -> None:
    weights = _weights(load(folder, **layout.request)).values()
    assert not any(weight.requires_grad for weight in weights)
