"""Sparsify runs: `config.json`, and a folder for every hookpoint with `cfg.json` and `sae.safetensors`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

D_IN, FEATURES, FACTOR, K = 5, 11, 3, 3

NOW = {
    "activation": "topk",
    "expansion_factor": FACTOR,
    "normalize_decoder": True,
    "num_latents": FEATURES,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D_IN,
}
OLD = {name: NOW[name] for name in ("expansion_factor", "num_latents", "k", "d_in")}

CASES: dict[str, dict[str, Any]] = {
    "transcoder": {**NOW, "transcode": True},
    "skip_transcoder": {**NOW, "transcode": True, "skip_connection": True, "num_latents": 0},
    "sae": NOW,
    "old_sae": OLD,
    "old_transcoder": OLD,
    "old_skip_transcoder": {**OLD, "skip_connection": True},
}


def write(
    folder: Path,
    *,
    seed: int = 0,
    case: str = "skip_transcoder",
    hookpoints: Sequence[str] = ("layers.1.mlp", "layers.3.mlp"),
) -> None:
    """A run of which every hookpoint has the same config."""
    for n, hookpoint in enumerate(hookpoints):
        write_one(folder / hookpoint, seed=seed + n, cfg=CASES[case])
    run: dict[str, Any] = {"model": "HuggingFaceTB/SmolLM2-135M", "sae": CASES[case]}
    if case.startswith("old"):
        run["transcode"] = "transcoder" in case
    (folder / "config.json").write_text(json.dumps(run))


def write_one(folder: Path, *, seed: int, cfg: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = cfg["num_latents"] or cfg["expansion_factor"] * D_IN
    weights = {
        "encoder.weight": torch.randn(features, D_IN, generator=generator),
        "encoder.bias": torch.randn(features, generator=generator),
        "W_dec": torch.randn(features, D_IN, generator=generator),
        "b_dec": torch.randn(D_IN, generator=generator),
    }
    if cfg.get("skip_connection"):
        weights["W_skip"] = torch.randn(D_IN, D_IN, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(cfg))
