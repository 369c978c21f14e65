"""dictionary_learning's folders: `config.json` and `ae.pt` for every trainer."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

D, FEATURES, K = 5, 11, 3
CASES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
)
_WITH_K = ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")


def write(
    folder: Path, *, case: str = "BatchTopKSAE", seed: int = 0, layers: Sequence[int] = (1, 3)
) -> None:
    """A folder `resid_post_layer_{L}/trainer_0` for each of `layers`."""
    for layer in layers:
        write_trainer(folder / f"resid_post_layer_{layer}/trainer_0", layer, case, seed + layer)


def write_trainer(folder: Path, layer: int, case: str, seed: int, *, k: int = K) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors(case, seed, k=k), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps(config(layer, case, k=k)))


def config(layer: int, case: str, *, k: int = K) -> dict[str, dict[str, object]]:
    trainer: dict[str, object] = {
        "trainer_class": "ATrainer",
        "dict_class": case,
        "lr": 0.0003,
        "seed": 0,
        "activation_dim": D,
        "dict_size": FEATURES,
        "device": "cuda:0",
        "layer": layer,
        "lm_name": "EleutherAI/pythia-70m-deduped",
        "wandb_name": "a name",
        "submodule_name": f"resid_post_layer_{layer}",
        **({"k": k} if case in _WITH_K else {}),
    }
    return {"trainer": trainer, "buffer": {"d_submodule": D, "io": "out", "ctx_len": 128}}


def tensors(case: str, seed: int, *, k: int = K) -> dict[str, Tensor]:
    """A state dict of the class, no weight of which is zero."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    linear = {"encoder.weight": normal(FEATURES, D), "decoder.weight": normal(D, FEATURES)}
    matrix = {"W_enc": normal(D, FEATURES), "W_dec": normal(FEATURES, D)}
    scalars = {"k": torch.tensor(k, dtype=torch.int), "threshold": torch.tensor(0.7)}
    biases = {"b_enc": normal(FEATURES), "b_dec": normal(D)}
    match case:
        case "AutoEncoder":
            return {"bias": normal(D), **linear, "encoder.bias": normal(FEATURES)}
        case "AutoEncoderNew":
            return {**linear, "encoder.bias": normal(FEATURES), "decoder.bias": normal(D)}
        case "GatedAutoEncoder":
            gates = {name: normal(FEATURES) for name in ("r_mag", "gate_bias", "mag_bias")}
            return {"decoder_bias": normal(D), **linear, **gates}
        case "JumpReluAutoEncoder":
            return {**matrix, **biases, "threshold": normal(FEATURES).abs()}
        case "MatryoshkaBatchTopKSAE":
            return {**scalars, "group_sizes": torch.tensor([4, 7]), **matrix, **biases}
        case _:
            return {**scalars, "b_dec": normal(D), **linear, "encoder.bias": normal(FEATURES)}
