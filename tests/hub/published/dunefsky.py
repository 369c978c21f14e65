"""Dunefsky et al.'s `.pt` files: the trainer's config object and the weights, one file for every layer."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor, nn

D_IN, D_OUT, FEATURES = 5, 7, 11
CASES = ("transcoder", "sae")
MODULE = "sae_training.config"


class LanguageModelSAERunnerConfig:
    """Stands for the trainer's own class, which is saved by its name and its attributes."""


def write(
    folder: Path, *, case: str = "transcoder", seed: int = 0, layers: Sequence[int] = (1, 3)
) -> None:
    """One file of weights for each of `layers`, and its file of firing frequencies."""
    folder.mkdir(parents=True, exist_ok=True)
    for layer in layers:
        cfg = config(layer, case)
        name = f"final_sparse_autoencoder_gpt2-small_{cfg['hook_point']}_{FEATURES}"
        with trainer():
            torch.save(content(cfg, tensors(case, seed + layer)), folder / f"{name}.pt")
        torch.save(torch.zeros(FEATURES), folder / f"{name}_log_feature_sparsity.pt")


def content(cfg: dict[str, object], weights: dict[str, Tensor]) -> dict[str, object]:
    """What the trainer hands to torch.save."""
    saved = LanguageModelSAERunnerConfig()
    vars(saved).update(cfg)
    module = nn.ParameterDict({name: nn.Parameter(tensor) for name, tensor in weights.items()})
    return {"cfg": saved, "state_dict": module.state_dict()}


def config(layer: int, case: str) -> dict[str, object]:
    transcoder = case == "transcoder"
    hook = "ln2.hook_normalized" if transcoder else "hook_resid_pre"
    both = {
        "model_name": "gpt2-small",
        "hook_point": f"blocks.{layer}.{hook}",
        "hook_point_layer": layer,
        "hook_point_head_index": None,
        "d_in": D_IN,
        "d_sae": FEATURES,
        "l1_coefficient": 1.4e-4,
        "use_ghost_grads": True,
        "total_training_tokens": 60_000_000,
        "device": torch.device("cuda"),
        "dtype": torch.float32,
    }
    out = {
        "is_transcoder": True,
        "d_out": D_OUT,
        "out_hook_point": f"blocks.{layer}.hook_mlp_out",
        "out_hook_point_layer": layer,
    }
    return {**both, **out} if transcoder else both


def tensors(case: str, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    d_out = D_OUT if case == "transcoder" else D_IN
    shapes = {
        "W_enc": (D_IN, FEATURES),
        "b_enc": (FEATURES,),
        "W_dec": (FEATURES, d_out),
        "b_dec": (D_IN,),
    }
    if case == "transcoder":
        shapes["b_dec_out"] = (d_out,)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@contextmanager
def trainer() -> Iterator[None]:
    """Give the class the name under which pickle writes and finds it."""
    module = ModuleType(MODULE)
    vars(module)["LanguageModelSAERunnerConfig"] = LanguageModelSAERunnerConfig
    with (
        mock.patch.dict(sys.modules, {"sae_training": ModuleType("sae_training"), MODULE: module}),
        mock.patch.object(LanguageModelSAERunnerConfig, "__module__", MODULE),
    ):
        yield
