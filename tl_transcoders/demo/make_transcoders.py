"""Trains the shipped transcoders: `python -m tl_transcoders.demo.make_transcoders`.

year-span model → ReLU, TopK, skip, SAE and CLT → tl_transcoders/demo/data/{relu,topk,skip,sae,clt}/
"""

import json
import time
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.demo.data import training_tokens
from tl_transcoders.demo.loading import DATA, Kind, load_model, load_transcoders
from tl_transcoders.demo.measure import mean_score
from tl_transcoders.evaluation import evaluate
from tl_transcoders.hub import save
from tl_transcoders.splice import splice
from tl_transcoders.training import TrainConfig, train, train_cross_layer
from tl_transcoders.transcoders import CrossLayerTranscoder, ReLU, TopK, TranscoderSet

ROWS = 12_000

_COMMON = {"n_features": 512, "lr": 2e-3, "dead_after": 50_000}

CONFIGS: dict[Kind, TrainConfig] = {
    "relu": TrainConfig(**_COMMON, activation=ReLU(), l1=0.1),
    "topk": TrainConfig(**_COMMON, activation=TopK(12)),
    "skip": TrainConfig(**_COMMON, activation=TopK(8), skip=True),
    "sae": TrainConfig(**_COMMON, activation=TopK(24), read="resid_post", write="resid_post"),
    "clt": TrainConfig(**_COMMON, activation=TopK(8)),
}
"""How each kind is trained; BOS included, so that none of it has to be excluded from a splice."""


def main() -> None:
    """Train, save and measure every kind."""
    torch.set_num_threads(1)
    model = load_model()
    tokens = training_tokens(ROWS, seed=-3)
    record = {}
    for kind, config in CONFIGS.items():
        begun = time.perf_counter()
        trained = make(model, kind, tokens)
        save(trained, DATA / kind, overwrite=True)
        record[kind] = {
            "config": config.to_dict(),
            "tokens": tokens.numel(),
            "seconds": round(time.perf_counter() - begun),
            "measured": measure(model, load_transcoders(kind)),
        }
        print(kind, json.dumps(record[kind]["measured"]))
    (DATA / "transcoders.json").write_text(json.dumps(record, indent=2) + "\n")


def make(
    model: Any, kind: Kind, tokens: Int[Tensor, "batch pos"]
) -> TranscoderSet | CrossLayerTranscoder:
    """Train one kind for every layer."""
    if kind == "clt":
        return train_cross_layer(model, config=CONFIGS[kind], tokens=tokens)
    return train(model, layers=range(model.cfg.n_layers), config=CONFIGS[kind], tokens=tokens)


def measure(
    model: Any, transcoders: TranscoderSet | CrossLayerTranscoder
) -> dict[str, float | list[float]]:
    """FVU, L0 and share of dead features by layer, and what the model loses with all layers spliced."""
    with splice(model, transcoders) as spliced:
        report = evaluate(spliced, training_tokens(128, seed=-2), batch_size=64)
        score = mean_score(model)
    layers = report.layers.values()
    return {
        "fvu": [round(layer.fvu, 4) for layer in layers],
        "l0": [round(layer.l0, 1) for layer in layers],
        "dead": [round(layer.dead, 4) for layer in layers],
        "loss_original": round(report.original.loss, 4),
        "loss_spliced": round(report.spliced.loss, 4),
        "kl": round(report.spliced.kl, 4),
        "score": round(score, 4),
    }


if __name__ == "__main__":
    main()
