"""Llama Scope's folders: `hyperparams.json` and `checkpoints/final.safetensors`."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

D, FEATURES = 5, 11
CASES = ("R", "M", "A", "unit_norm", "pre_bias")
NORMS = {"in": 3.7, "out": 3.7}
_HOOKS = {"R": "hook_resid_post", "M": "hook_mlp_out", "A": "hook_attn_out"}


def write(folder: Path, *, case: str = "R", seed: int = 0, layers: Sequence[int] = (1, 3)) -> None:
    """A folder `Llama3_1-8B-Base-L{L}R-8x` for each of `layers`."""
    for layer in layers:
        below = folder / folder_name(layer, case)
        (below / "checkpoints").mkdir(parents=True, exist_ok=True)
        (below / "hyperparams.json").write_text(json.dumps(config(layer, case)))
        save_file(tensors(case, seed + layer), below / "checkpoints/final.safetensors")


def folder_name(layer: int, case: str = "R") -> str:
    return f"Llama3_1-8B-Base-L{layer}{case if case in _HOOKS else 'R'}-8x"


def config(layer: int, case: str) -> dict[str, object]:
    hook = f"blocks.{layer}.{_HOOKS.get(case, 'hook_resid_post')}"
    return {
        "hook_point_in": hook,
        "hook_point_out": hook,
        "d_model": D,
        "d_sae": FEATURES,
        "expansion_factor": 8,
        "use_decoder_bias": True,
        "use_glu_encoder": False,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.52734375,
        "apply_decoder_bias_to_pre_encoder": case == "pre_bias",
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
        "top_k": 50,
        "sae_pretrained_name_or_path": None,
        "strict_loading": True,
        "dataset_average_activation_norm": NORMS,
        "l1_coefficient": 0.00008,
    }


def tensors(case: str, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    decoder = normal(D, FEATURES)
    return {
        "encoder.weight": normal(FEATURES, D),
        "encoder.bias": normal(FEATURES),
        "decoder.weight": decoder / decoder.norm(dim=0) if case == "unit_norm" else decoder,
        "decoder.bias": normal(D),
    }
