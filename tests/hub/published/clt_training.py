"""Cross-layer runs as EleutherAI's clt-training saves them, and what its source computes from them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

N_LAYERS, D, FEATURES, K = 3, 5, 11, 2

CASES = ("none", "concat", "per-layer")

Weights = dict[str, Tensor]


def write_full(folder: Path, case: str = "none") -> list[Weights]:
    """A run of a mode with everything else there is."""
    return write_run(folder, mode=case, skip=True, normalised=True, scaled=True)


def write_run(
    folder: Path, *, mode: str, skip: bool, normalised: bool, scaled: bool
) -> list[Weights]:
    """A folder for every MLP, and the tensors in it."""
    generator = torch.Generator().manual_seed(4)
    layers = []
    for i in range(N_LAYERS):
        n_targets, n_sources = N_LAYERS - i, i + 1 if mode == "per-layer" else 0
        shapes: dict[str, tuple[int, ...]] = {
            "encoder.weight": (FEATURES, D),
            "encoder.bias": (FEATURES,),
        }
        if mode == "none":
            for t in range(n_targets):
                shapes |= {f"W_decs.{t}": (FEATURES, D), f"b_decs.{t}": (D,)}
        else:
            shapes |= {"W_dec": (max(1, n_sources) * FEATURES, D), "b_dec": (D,)}
        if skip:
            shapes["W_skips.0" if mode == "none" else "W_skip"] = (D, D)
        if scaled:
            shapes |= {f"post_enc_scales.{t}": (FEATURES,) for t in range(n_targets)}
        weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        weights |= {f"post_encs.{t}": torch.zeros(FEATURES) for t in range(n_targets)}
        if skip and mode == "none":
            weights |= {f"W_skips.{t}": torch.zeros(D, D) for t in range(1, n_targets)}
        if normalised:
            weights |= {"in_norm": torch.tensor([1.5 + i]), "out_norm": torch.tensor([2.5 - i / 2])}
        config = {
            "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": FEATURES,
            "k": K, "multi_topk": False, "skip_connection": skip, "transcode": True, "tp_output": True,
            "n_targets": n_targets, "n_sources": n_sources, "normalize_io": normalised,
            "divide_cross_layer": False, "train_post_encoder": True, "post_encoder_scale": scaled,
            "coalesce_topk": mode, "topk_coalesced": False, "d_in": D,
        }  # fmt: skip
        target = folder / f"layers.{i}.mlp"
        target.mkdir(parents=True)
        (target / "cfg.json").write_text(json.dumps(config))
        save_file(weights, target / "sae.safetensors")
        layers.append(weights)
    return layers


def run(layers: list[Weights], x: Tensor, *, mode: str) -> list[Tensor]:
    """y of every layer from x `[layer token d]`, source by source, as the runner adds them up."""
    x = torch.stack([x[i] * D**0.5 / w.get("in_norm", D**0.5) for i, w in enumerate(layers)])
    tops = [
        (x[i] @ w["encoder.weight"].T + w["encoder.bias"]).relu().topk(K)
        for i, w in enumerate(layers)
    ]
    outputs = []
    for j, target in enumerate(layers):
        y = torch.zeros_like(x[j])
        for i in range(j + 1):
            values, indices = tops[i]
            acts = values * layers[i].get(f"post_enc_scales.{j - i}", torch.ones(FEATURES))[indices]
            if mode == "none":
                rows = layers[i][f"W_decs.{j - i}"][indices]
                y += layers[i][f"b_decs.{j - i}"]
            else:
                rows = target["W_dec"][indices + (i * FEATURES if mode == "per-layer" else 0)]
            y += (acts[..., None] * rows).sum(-2)
        y += target.get("b_dec", torch.zeros(D))
        skip = target.get("W_skip", target.get("W_skips.0", torch.zeros(D, D)))
        outputs.append((y + x[j] @ skip.T) * target.get("out_norm", D**0.5) / D**0.5)
    return outputs
