"""Tiny models of each published family whose MLPs are exactly a transcoder.

Every MLP is `relu(x @ W + b) @ V`: gated ones get a gate with ReLU and an up projection that is 1 everywhere.
Where a post-norm follows (Gemma), `relu` serves in pairs, so that the MLP is a rotation of its normalised
input: its output then has one length, and the post-norm is a fixed diagonal matrix.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.cases import BOS, PAD, VOCAB, tokenizer

N_LAYERS, D, FEATURES = 2, 12, 24
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": D,
    "intermediate_size": FEATURES,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 6,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
    "bos_token_id": BOS,
    "eos_token_id": BOS,
    "pad_token_id": PAD,
}


def _gpt2() -> Any:
    sizes = {"n_embd": D, "n_layer": N_LAYERS, "n_head": 2, "n_inner": FEATURES, "n_positions": 64}
    special = {"vocab_size": VOCAB, "bos_token_id": BOS, "eos_token_id": BOS}
    return GPT2LMHeadModel(
        GPT2Config(**sizes, **special, activation_function="relu", attn_implementation="eager")
    )


HF = {
    "gpt2": _gpt2,
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON, hidden_act="relu")),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**COMMON, hidden_act="relu")),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**COMMON, hidden_activation="relu", sliding_window=5)
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**COMMON, hidden_activation="relu", sliding_window=5)
    ),
}
POST_NORM = ("gemma2", "gemma3")


@dataclass(frozen=True)
class Weights:
    """What the MLP of a layer is, on its normalised input before the gain: relu(x @ W + b) @ V, post-norm included."""

    W: Tensor
    b: Tensor
    V: Tensor
    b_out: Tensor
    gain: Tensor
    bias: Tensor
    post_gain: Tensor


def exact_model(architecture: str) -> tuple[Any, list[Weights]]:
    """A Hugging Face model with random norms, and its MLPs."""
    torch.manual_seed(0)
    model = HF[architecture]().eval()
    model.config.architectures = [type(model).__name__]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.mul_(8 if "mlp" not in name else 1)
        if architecture == "gpt2":
            return model, [_gpt2_mlp(block) for block in model.transformer.h]
        return model, [_gated_mlp(layer, architecture) for layer in model.model.layers]


def boot(hf: Any, architecture: str, *, processed: bool) -> Any:
    bridge = TransformerBridge.boot_transformers(
        f"exact/{architecture}", hf_model=hf, tokenizer=tokenizer(), device="cpu"
    )
    if processed:
        bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge.eval()


def _gpt2_mlp(block: Any) -> Weights:
    mlp, ln2 = block.mlp, block.ln_2
    mlp.c_fc.weight.copy_(torch.randn(D, FEATURES) / D**0.5)
    mlp.c_proj.weight.copy_(torch.randn(FEATURES, D))
    gain, bias = ln2.weight.clone(), ln2.bias.clone()
    W, b = mlp.c_fc.weight.clone(), mlp.c_fc.bias.clone()
    return Weights(
        W=gain[:, None] * W,
        b=b + bias @ W,
        V=mlp.c_proj.weight.clone(),
        b_out=mlp.c_proj.bias.clone(),
        gain=gain,
        bias=bias,
        post_gain=torch.ones(D),
    )


def _gated_mlp(layer: Any, architecture: str) -> Weights:
    post_norm = architecture in POST_NORM
    norm = layer.pre_feedforward_layernorm if post_norm else layer.post_attention_layernorm
    gain = norm.weight + 1 if post_norm else norm.weight.clone()
    post_gain = layer.post_feedforward_layernorm.weight + 1 if post_norm else torch.ones(D)
    W, V = torch.randn(D, FEATURES) / D**0.5, torch.randn(FEATURES, D)
    if post_norm:
        rotation = torch.linalg.qr(torch.randn(D, D)).Q
        W = torch.cat([torch.eye(D), -torch.eye(D)], 1)
        V = torch.cat([rotation, -rotation])
    layer.mlp.gate_proj.weight.copy_((W / gain[:, None]).T)
    layer.mlp.down_proj.weight.copy_(V.T)
    layer.mlp.up_proj = nn.Linear(D, FEATURES)
    layer.mlp.up_proj.weight.zero_()
    layer.mlp.up_proj.bias.fill_(1)
    zeros = torch.zeros(D)
    return Weights(W, torch.zeros(FEATURES), V, zeros, gain, zeros, post_gain)
