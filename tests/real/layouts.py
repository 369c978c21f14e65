"""Given transcoders in every published layout, by the same words as the fixtures of `tests.hub.published`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import tl_transcoders as tlt
from tests.hub.published import (
    circuit_tracer,
    dictionary_learning,
    dunefsky,
    gemma_scope_2,
    llama_scope,
    sparsify,
)
from tl_transcoders._types import Site
from tl_transcoders.hub import save_sae_lens
from tl_transcoders.transcoders import JumpReLU, TopK, Transcoder, TranscoderConfig, TranscoderSet

Maps = Mapping[int, Tensor]
"""For every layer from 0 the linear map `[d_in d_out]` that its transcoder is to compute."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where its transcoders read and write, and how they are written; returns the folder to load."""

    name: str
    read: Site
    write_site: Site
    write: Callable[[Path, Maps], Path]

    def __str__(self) -> str:
        return self.name


def encoder(A: Tensor) -> Tensor:
    """`[d_in feature]`: every coordinate and its negative, of which ReLU, JumpReLU at 0 and TopK(d_in) keep one."""
    one = torch.eye(len(A))
    return torch.cat([one, -one], dim=1)


def decoder(A: Tensor) -> Tensor:
    """`[feature d_out]`: relu(x) @ A − relu(−x) @ A = x @ A."""
    return torch.cat([A, -A])


def _bias(A: Tensor) -> Tensor:
    return torch.zeros(2 * len(A))


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _text(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def _ours(maps: Maps, activation: Any, read: Site, write: Site) -> TranscoderSet:
    return TranscoderSet({i: _transcoder(i, A, activation, read, write) for i, A in maps.items()})


def _transcoder(layer: int, A: Tensor, activation: Any, read: Site, write: Site) -> Transcoder:
    cfg = TranscoderConfig(
        layer=layer, d_in=len(A), d_out=A.shape[1], n_features=2 * len(A), read=read, write=write
    )
    return Transcoder(
        replace(cfg, activation=activation),
        W_enc=encoder(A),
        b_enc=_bias(A),
        W_dec=decoder(A),
        b_dec=torch.zeros(A.shape[1]),
        threshold=_bias(A) if activation == JumpReLU() else None,
    )


def native(folder: Path, maps: Maps) -> Path:
    k = TopK(len(maps[0]))
    return tlt.save(_ours(maps, k, "mlp_in", "mlp_out_raw"), folder / "set")


def sae_lens(folder: Path, maps: Maps) -> Path:
    return save_sae_lens(_ours(maps, JumpReLU(), "ln2_normalized", "mlp_out"), folder / "set")


def dunefsky_files(folder: Path, maps: Maps) -> Path:
    for layer, A in maps.items():
        d, n = len(A), 2 * len(A)
        cfg = dunefsky.config(layer, "transcoder") | {"d_in": d, "d_sae": n, "d_out": A.shape[1]}
        weights = {
            "W_enc": encoder(A),
            "b_enc": _bias(A),
            "W_dec": decoder(A),
            "b_dec": torch.zeros(d),
            "b_dec_out": torch.zeros(A.shape[1]),
        }
        name = f"final_sparse_autoencoder_gpt2-small_{cfg['hook_point']}_{n}.pt"
        with dunefsky.trainer():
            torch.save(dunefsky.content(cfg, weights), folder / name)
    return folder


def gemma_scope(folder: Path, maps: Maps) -> Path:
    repository = folder / "gemma-scope-2b-pt-transcoders"
    for layer, A in maps.items():
        path = repository / f"layer_{layer}/width_16k/average_l0_76/params.npz"
        path.parent.mkdir(parents=True)
        weights = {name.replace("w_", "W_"): t.numpy() for name, t in _scope(A).items()}
        np.savez(path, **weights)
    return repository


def _scope(A: Tensor) -> dict[str, Tensor]:
    return {
        "w_enc": encoder(A),
        "b_enc": _bias(A),
        "w_dec": decoder(A),
        "b_dec": torch.zeros(A.shape[1]),
        "threshold": _bias(A),
    }


def gemma_scope_2_set(folder: Path, maps: Maps) -> Path:
    for layer, A in maps.items():
        name = f"transcoder_all/layer_{layer}_width_16k_l0_small"
        _save(_scope(A), folder / name / "params.safetensors")
        _text(folder / name / "config.json", gemma_scope_2.config(name))
    return folder


def gemma_scope_2_clt(folder: Path, maps: Maps) -> Path:
    for layer, A in maps.items():
        W_dec = torch.zeros(2 * len(A), len(maps), A.shape[1])
        W_dec[:, layer] = decoder(A)
        path = folder / f"clt/width_262k_l0_medium/params_layer_{layer}.safetensors"
        _save({**_scope(A), "w_dec": W_dec}, path)
    return folder


def sparsify_run(folder: Path, maps: Maps) -> Path:
    for layer, A in maps.items():
        cfg = {**sparsify.NOW, "transcode": True, "d_in": len(A), "num_latents": 2 * len(A)}
        target = folder / f"layers.{layer}.mlp"
        _text(target / "cfg.json", cfg | {"k": len(A)})
        _save(_linear(A) | {"W_dec": decoder(A)}, target / "sae.safetensors")
    return folder


def _linear(A: Tensor) -> dict[str, Tensor]:
    return {
        "encoder.weight": encoder(A).T,
        "encoder.bias": _bias(A),
        "b_dec": torch.zeros(A.shape[1]),
    }


def clt_training_run(folder: Path, maps: Maps) -> Path:
    n_layers = len(maps)
    for layer, A in maps.items():
        n_targets = n_layers - layer
        cfg = {
            **sparsify.NOW, "transcode": True, "d_in": len(A), "num_latents": 2 * len(A), "k": len(A),
            "tp_output": True, "n_targets": n_targets, "n_sources": 0, "normalize_io": False,
            "divide_cross_layer": False, "train_post_encoder": True, "post_encoder_scale": False,
            "coalesce_topk": "none", "topk_coalesced": False,
        }  # fmt: skip
        zeros = torch.zeros(2 * len(A), A.shape[1])
        weights = {name: t for name, t in _linear(A).items() if name != "b_dec"}
        for t in range(n_targets):
            weights |= {f"W_decs.{t}": zeros if t else decoder(A)}
            weights |= {f"b_decs.{t}": torch.zeros(A.shape[1]), f"post_encs.{t}": _bias(A)}
        target = folder / f"layers.{layer}.mlp"
        _text(target / "cfg.json", cfg)
        _save(weights, target / "sae.safetensors")
    return folder


def circuit_tracer_set(folder: Path, maps: Maps) -> Path:
    _text(folder / "config.yaml", circuit_tracer.SET_CONFIG)
    for layer, A in maps.items():
        weights = {
            "W_enc": encoder(A).T,
            "b_enc": _bias(A),
            "W_dec": decoder(A),
            "b_dec": torch.zeros(A.shape[1]),
        }
        _save(weights, folder / f"layer_{layer}.safetensors")
    return folder


def circuit_tracer_clt(folder: Path, maps: Maps) -> Path:
    _text(folder / "config.yaml", circuit_tracer.CLT_CONFIG)
    for i, A in maps.items():
        W_dec = torch.zeros(2 * len(A), len(maps) - i, A.shape[1])
        W_dec[:, 0] = decoder(A)
        weights = {
            f"W_enc_{i}": encoder(A).T,
            f"b_enc_{i}": _bias(A),
            f"b_dec_{i}": torch.zeros(A.shape[1]),
        }
        _save(weights, folder / f"W_enc_{i}.safetensors")
        _save({f"W_dec_{i}": W_dec}, folder / f"W_dec_{i}.safetensors")
    return folder


def dictionary_learning_saes(folder: Path, maps: Maps) -> Path:
    for layer, A in maps.items():
        target = folder / f"resid_post_layer_{layer}/trainer_0"
        config: dict[str, Any] = dictionary_learning.config(layer, "AutoEncoder")
        config["trainer"] |= {"activation_dim": len(A), "dict_size": 2 * len(A)}
        _text(target / "config.json", config)
        weights = {name: t for name, t in _linear(A).items() if name != "b_dec"}
        weights |= {"bias": torch.zeros(len(A)), "decoder.weight": decoder(A).T}
        torch.save(weights, target / "ae.pt")
    return folder


def llama_scope_saes(folder: Path, maps: Maps) -> Path:
    for layer, A in maps.items():
        target = folder / llama_scope.folder_name(layer)
        d = len(A)
        sizes = {"d_model": d, "d_sae": 2 * d, "jump_relu_threshold": 0.0}
        norms = {"dataset_average_activation_norm": {"in": d**0.5, "out": d**0.5}}
        _text(target / "hyperparams.json", llama_scope.config(layer, "R") | sizes | norms)
        weights = {name: t for name, t in _linear(A).items() if name != "b_dec"}
        weights |= {"decoder.weight": decoder(A).T, "decoder.bias": torch.zeros(d)}
        _save(weights, target / "checkpoints/final.safetensors")
    return folder


LAYOUTS = (
    Layout("native", "mlp_in", "mlp_out_raw", native),
    Layout("sae-lens", "ln2_normalized", "mlp_out", sae_lens),
    Layout("dunefsky", "ln2_normalized", "mlp_out", dunefsky_files),
    Layout("gemma-scope", "ln2_normalized", "mlp_out", gemma_scope),
    Layout("gemma-scope-2", "mlp_in", "mlp_out", gemma_scope_2_set),
    Layout("gemma-scope-2-clt", "mlp_in", "mlp_out", gemma_scope_2_clt),
    Layout("sparsify", "mlp_in", "mlp_out_raw", sparsify_run),
    Layout("clt-training", "mlp_in", "mlp_out_raw", clt_training_run),
    Layout("circuit-tracer", "mlp_in", "mlp_out", circuit_tracer_set),
    Layout("circuit-tracer-clt", "resid_mid", "mlp_out", circuit_tracer_clt),
    Layout("dictionary-learning", "resid_post", "resid_post", dictionary_learning_saes),
    Layout("llama-scope", "resid_post", "resid_post", llama_scope_saes),
)
