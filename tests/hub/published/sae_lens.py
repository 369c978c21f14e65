"""SAELens folders: `cfg.json` and `sae_weights.safetensors`, one for every layer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

D_IN, D_OUT, FEATURES = 5, 7, 11
SCALE = 1.7

_SAE = {"hook_name": "blocks.{layer}.hook_resid_post"}
_TRANSCODER = {
    "hook_name": "blocks.{layer}.ln2.hook_normalized",
    "hook_name_out": "blocks.{layer}.hook_mlp_out",
}

CASES: dict[str, dict[str, Any]] = {
    "standard": {"architecture": "standard"},
    "no_pre_bias": {"architecture": "standard", "apply_b_dec_to_input": False},
    "topk": {"architecture": "topk", "k": 3},
    "topk_rescaled": {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {"architecture": "jumprelu"},
    "gated": {"architecture": "gated"},
    "scaled": {"architecture": "jumprelu", "normalize_activations": "expected_average_only_in"},
    "hook_z": {"architecture": "standard", "reshape_activations": "hook_z"},
    "transcoder": {"architecture": "transcoder"},
    "skip_transcoder": {"architecture": "skip_transcoder"},
    "jumprelu_transcoder": {"architecture": "jumprelu_transcoder"},
    "jumprelu_skip_transcoder": {"architecture": "jumprelu_skip_transcoder"},
    "flat_standard": {"flat": True, "activation_fn_str": "relu", "normalize_activations": False},
    "flat_topk": {
        "flat": True,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "scaling_factor": True,
    },
    "flat_gated": {"flat": True, "architecture": "gated", "apply_b_dec_to_input": False},
}


def write(
    folder: Path, *, seed: int = 0, case: str = "skip_transcoder", layers: Sequence[int] = (1, 3)
) -> None:
    """A folder `layer_{L}` for each of `layers`; with one layer only, its files lie in `folder` itself."""
    for layer in layers:
        below = folder / f"layer_{layer}" if len(layers) > 1 else folder
        below.mkdir(parents=True, exist_ok=True)
        write_one(below, layer, seed=seed + layer, **CASES[case])


def write_one(folder: Path, layer: int, *, seed: int, flat: bool = False, **options: Any) -> None:
    with_scale = options.pop("scaling_factor", False)
    architecture = options.get("architecture", "topk" if "activation_fn_kwargs" in options else "")
    weights = tensors(architecture, seed)
    if with_scale:
        weights["scaling_factor"] = torch.ones(FEATURES)
    save_file(weights, folder / "sae_weights.safetensors")
    cfg = _flat(layer, options) if flat else _config(layer, options)
    (folder / "cfg.json").write_text(json.dumps(cfg))
    if options.get("normalize_activations") == "expected_average_only_in":
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": SCALE}))


def tensors(architecture: str, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    d_out = D_OUT if architecture.endswith("transcoder") else D_IN
    made = {
        "W_enc": normal(D_IN, FEATURES),
        "W_dec": normal(FEATURES, d_out),
        "b_dec": normal(d_out),
    }
    if architecture == "gated":
        return {**made, **{name: normal(FEATURES) for name in ("r_mag", "b_mag", "b_gate")}}
    made["b_enc"] = normal(FEATURES)
    if "jumprelu" in architecture:
        made["threshold"] = normal(FEATURES).abs()
    if "skip" in architecture:
        made["W_skip"] = normal(d_out, D_IN)
    return made


def _config(layer: int, options: dict[str, Any]) -> dict[str, Any]:
    transcoder = options["architecture"].endswith("transcoder")
    hooks = _TRANSCODER if transcoder else _SAE
    if options.get("reshape_activations") == "hook_z":
        hooks = {"hook_name": "blocks.{layer}.attn.hook_z"}
    metadata = {name: hook.format(layer=layer) for name, hook in hooks.items()}
    versions = {"sae_lens_version": "6.54.12", "sae_lens_training_version": "6.54.12"}
    return {
        "d_in": D_IN,
        "d_sae": FEATURES,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**versions, **metadata, "model_name": "gpt2"},
        **({"d_out": D_OUT} if transcoder else {}),
        **options,
    }


def _flat(layer: int, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_name": "gpt2",
        "hook_point": f"blocks.{layer}.hook_resid_post",
        "hook_point_layer": layer,
        "hook_point_head_index": None,
        "dataset_path": "a/dataset",
        "d_in": D_IN,
        "d_sae": FEATURES,
        "dtype": "float32",
        "context_size": 128,
        "l1_coefficient": 0.001,
        **options,
    }
