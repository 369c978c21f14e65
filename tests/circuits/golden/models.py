"""The small random models and transcoders whose graphs circuit-tracer recorded; both sides build them from here.

The peer gives position embeddings no node, and here they are part of `embed`: the GPT-2 has none.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

N_LAYERS, D_MODEL, FEATURES, VOCAB, BOS = 3, 10, 11, 29, 0
TOKENS = (BOS, 7, 19, 3, 23, 11)
ARCHITECTURES = ("gpt2", "llama")
KINDS = ("relu", "jumprelu", "skip", "clt")
THRESHOLD = "activation_function.threshold"
CONFIG = """\
model_name: "org/model"
model_kind: {kind}
feature_input_hook: "mlp.hook_in"
feature_output_hook: "mlp.hook_out"
scan: "a-scan"
"""


def hf_model(architecture: str) -> Any:
    """A model of Hugging Face with weights that do not depend on how its version draws them."""
    common: dict[str, Any] = {"vocab_size": VOCAB, "attn_implementation": "eager"}
    if architecture == "gpt2":
        sizes = {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 2, "n_inner": 17}
        model: Any = GPT2LMHeadModel(GPT2Config(n_positions=16, **sizes, **common))
    else:
        sizes = {"hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "intermediate_size": 17}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6}
        model = LlamaForCausalLM(
            LlamaConfig(
                max_position_embeddings=16, tie_word_embeddings=False, **sizes, **heads, **common
            )
        )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=generator)
            scale = 1.0 if parameter.ndim == 1 else len(parameter) ** -0.5
            parameter.copy_(1 + 0.3 * drawn if _is_gain(name) else scale * drawn)
            if "wpe" in name:
                parameter.zero_()
    model.config.architectures = [type(model).__name__]
    return model.eval()


def _is_gain(name: str) -> bool:
    return name.endswith("weight") and ("norm" in name or "ln_" in name)


def write_transcoders(folder: Path, kind: str) -> None:
    """A folder in circuit-tracer's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    clt = kind == "clt"
    named = "cross_layer_transcoder" if clt else "transcoder_set"
    (folder / "config.yaml").write_text(CONFIG.format(kind=named))
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    for i in range(N_LAYERS):
        (_write_cross_layer if clt else _write_layer)(folder, kind, i, generator)


def _write_layer(folder: Path, kind: str, layer: int, generator: torch.Generator) -> None:
    weights = {
        "W_enc": _drawn(generator, FEATURES, D_MODEL),
        "W_dec": _drawn(generator, FEATURES, D_MODEL),
        "b_enc": _drawn(generator, FEATURES) - 0.75,
        "b_dec": _drawn(generator, D_MODEL),
    }
    if kind == "jumprelu":
        weights[THRESHOLD] = _drawn(generator, FEATURES).abs()
    if kind == "skip":
        weights["W_skip"] = _drawn(generator, D_MODEL, D_MODEL)
    save_file(weights, folder / f"layer_{layer}.safetensors")


def _write_cross_layer(folder: Path, _: str, layer: int, generator: torch.Generator) -> None:
    encoder = {
        f"W_enc_{layer}": _drawn(generator, FEATURES, D_MODEL),
        f"b_enc_{layer}": _drawn(generator, FEATURES) - 0.75,
        f"b_dec_{layer}": _drawn(generator, D_MODEL),
    }
    decoder = {f"W_dec_{layer}": _drawn(generator, FEATURES, N_LAYERS - layer, D_MODEL)}
    save_file(encoder, folder / f"W_enc_{layer}.safetensors")
    save_file(decoder, folder / f"W_dec_{layer}.safetensors")


def _drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator) * (0.5 if len(shape) == 1 else 0.4)
