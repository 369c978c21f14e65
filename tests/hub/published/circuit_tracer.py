"""Sets and cross-layer transcoders in circuit-tracer's layouts."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

N_LAYERS, D, FEATURES = 3, 5, 11
THRESHOLD = "activation_function.threshold"

SET_CONFIG = """\
# a comment, as published
model_name: "org/model"
model_kind: "transcoder_set"
feature_input_hook: "mlp.hook_in"
feature_output_hook: 'hook_mlp_out'
scan: "a-scan"
"""
CLT_CONFIG = """\
model_name: org/model
model_kind: cross_layer_transcoder
feature_input_hook: hook_resid_mid
feature_output_hook: hook_mlp_out
"""


def write_set(
    folder: Path,
    *,
    threshold: bool = False,
    skip: bool = False,
    d_out: int = D,
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Tensor]]:
    """`layer_{i}.safetensors` and `config.yaml`; returns the weights of every layer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(SET_CONFIG)
    generator = torch.Generator().manual_seed(1)
    layers = []
    for i in range(N_LAYERS):
        weights = {
            "W_enc": torch.randn(FEATURES, D, generator=generator),
            "W_dec": torch.randn(FEATURES, d_out, generator=generator),
            "b_enc": torch.randn(FEATURES, generator=generator),
            "b_dec": torch.randn(d_out, generator=generator),
        }
        if threshold:
            weights[THRESHOLD] = torch.rand(FEATURES, generator=generator)
        if skip:
            weights["W_skip"] = torch.randn(d_out, D, generator=generator)
        layers.append({name: tensor.to(dtype) for name, tensor in weights.items()})
        save_file(layers[i], folder / f"layer_{i}.safetensors")
    return layers


def write_clt(folder: Path, *, threshold: bool = False, d_out: int = D) -> list[dict[str, Tensor]]:
    """`W_enc_{i}`, `W_dec_{i}` and `config.yaml`; returns the tensors of every layer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(CLT_CONFIG)
    generator = torch.Generator().manual_seed(2)
    layers = []
    for i in range(N_LAYERS):
        encoder = {
            f"W_enc_{i}": torch.randn(FEATURES, D, generator=generator),
            f"b_enc_{i}": torch.randn(FEATURES, generator=generator),
            f"b_dec_{i}": torch.randn(d_out, generator=generator),
        }
        if threshold:
            encoder[f"threshold_{i}"] = torch.rand(FEATURES, generator=generator)
        decoder = {f"W_dec_{i}": torch.randn(FEATURES, N_LAYERS - i, d_out, generator=generator)}
        save_file(encoder, folder / f"W_enc_{i}.safetensors")
        save_file(decoder, folder / f"W_dec_{i}.safetensors")
        layers.append(encoder | decoder)
    return layers
