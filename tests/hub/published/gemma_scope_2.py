"""A repository like google/gemma-scope-2-*: many kinds, widths and L0s of an invented model of three layers."""

import fnmatch
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

D_IN, D_OUT, LAYERS = 5, 7, 3
WIDTHS = {"16k": 11, "262k": 13}

SETS = (
    "transcoder_all/layer_{}_width_16k_l0_small",
    "transcoder_all/layer_{}_width_16k_l0_big",
    "transcoder_all/layer_{}_width_16k_l0_small_affine",
    "resid_post_all/layer_{}_width_16k_l0_small",
)
SINGLE = (
    "transcoder/layer_1_width_262k_l0_medium_affine",
    "resid_post/layer_1_width_16k_l0_medium",
    "resid_post/layer_1_width_16k_l0_medium_seed_1",
    "attn_out/layer_1_width_16k_l0_medium",
    "mlp_out/layer_1_width_16k_l0_medium",
)
CROSS_LAYER = ("clt/width_262k_l0_medium", "clt/width_262k_l0_medium_affine")

CASES = (
    "transcoder_all/*_small",
    "transcoder_all/*_affine",
    "resid_post_all/*",
    "attn_out/*",
    "mlp_out/*",
    "clt/*_medium",
    "clt/*_affine",
)
"""Patterns that choose one set each."""

HOOKS = {
    "transcoder": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
    "clt": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
    "resid_post": ("output", None),
    "attn_out": ("self_attn.o_proj.input", None),
    "mlp_out": ("post_feedforward_layernorm.output", None),
}


def write(folder: Path, *, case: str = "*", seed: int = 0, d_out: int = D_OUT) -> None:
    """Every set, or that of a case; a crosscoder stands beside them, which is none of the kinds that are read."""
    generator = torch.Generator().manual_seed(seed)
    names = [name.format(layer) for name in SETS for layer in range(LAYERS)] + list(SINGLE)
    for name in fnmatch.filter(names, case):
        _write(folder / name / "params.safetensors", tensors(name, generator, d_out=d_out))
        (folder / name / "config.json").write_text(json.dumps(config(name)))
    for name in fnmatch.filter(CROSS_LAYER, case):
        for layer in range(LAYERS):
            made = tensors(name, generator, d_out=d_out, targets=LAYERS)
            _write(folder / name / f"params_layer_{layer}.safetensors", made)
    _write(folder / "crosscoder/layer_0_1_2_width_16k_l0_big/params_layer_0.safetensors", {})


def config(name: str) -> dict[str, Any]:
    layer = int(name.partition("/layer_")[2].partition("_")[0])
    hook_in, hook_out = next(hooks for kind, hooks in HOOKS.items() if name.startswith(kind))
    return {
        "hf_hook_point_in": f"model.layers.{layer}.{hook_in}",
        "hf_hook_point_out": hook_out and f"model.layers.{layer}.{hook_out}",
        "width": 16384,
        "model_name": "gemma-v3-270m-pt",
        "architecture": "jump_relu",
        "l0": 10,
        "affine_connection": "affine" in name,
        "type": name.partition("/")[0],
    }


def tensors(
    name: str, generator: torch.Generator, *, d_out: int, targets: int | None = None
) -> dict[str, Tensor]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    width = next(size for label, size in WIDTHS.items() if f"width_{label}_" in name)
    d_out = d_out if name.startswith(("transcoder", "clt")) else D_IN
    made = {
        "w_enc": normal(D_IN, width),
        "b_enc": normal(width),
        "w_dec": normal(*((width, d_out) if targets is None else (width, targets, d_out))),
        "b_dec": normal(d_out),
        "threshold": normal(width).abs(),
    }
    return {**made, "affine_skip_connection": normal(D_IN, d_out)} if "affine" in name else made


def _write(path: Path, made: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(made, path)
