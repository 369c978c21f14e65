"""Booting models from folders of Hugging Face files, without a network."""

from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, PreTrainedModel

from tl_transcoders.errors import ConfigError

try:
    from transformer_lens import (  # pyright: ignore[reportAttributeAccessIssue]
        HookedTransformer,
        HookedTransformerConfig,
    )
    from transformer_lens.pretrained.weight_conversions import (  # pyright: ignore[reportMissingImports]
        convert_gpt2_weights,
    )
except ImportError:  # removed in TransformerLens 4
    HookedTransformer = None


def boot_bridge(
    model: str | Path | PreTrainedModel,
    *,
    tokenizer: Any = None,
    compatibility: bool = False,
    device: str = "cpu",
) -> TransformerBridge:
    """A TransformerBridge on a folder of Hugging Face files, or on a model already in memory.

    **Arguments:** `compatibility`, whether norm gains are folded into the weights as HookedTransformer does.
    `tokenizer`, by default the one in the folder of the model.
    """
    if not isinstance(model, PreTrainedModel):
        folder = model
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(folder) if tokenizer is None else tokenizer
    bridge = TransformerBridge.boot_transformers(
        model.config.name_or_path, hf_model=model, tokenizer=tokenizer, device=device
    )
    if compatibility:
        bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge


def boot_hooked_gpt2(folder: str | Path, *, processed: bool) -> Any:
    """A HookedTransformer (transformer-lens 3.9) on a folder that holds a GPT-2.

    **Arguments:** `processed`, whether norm gains are folded into the weights and writing weights centred.

    **Raises:** ConfigError on TransformerLens 4, which has no HookedTransformer.
    """
    if HookedTransformer is None:
        raise ConfigError(
            "boot_hooked_gpt2",
            got="transformer-lens 4, which has no HookedTransformer",
            expected="transformer-lens 3.9",
            do="Use the TransformerBridge, or pip install 'transformer-lens>=3.9,<4'.",
        )
    gpt2 = GPT2LMHeadModel.from_pretrained(folder)
    cfg = _gpt2_config(gpt2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    hooked = HookedTransformer(cfg, tokenizer=tokenizer, move_to_device=False)
    with torch.no_grad():
        weights = {name: w.clone() for name, w in convert_gpt2_weights(gpt2, cfg).items()}
    hooked.load_and_process_state_dict(
        weights,
        fold_ln=processed,
        center_writing_weights=processed,
        center_unembed=processed,
        fold_value_biases=processed,
    )
    return hooked.eval()


def _gpt2_config(gpt2: GPT2LMHeadModel) -> Any:
    c = gpt2.config
    return HookedTransformerConfig(
        model_name=c.name_or_path,
        original_architecture="GPT2LMHeadModel",
        n_layers=c.n_layer,
        d_model=c.n_embd,
        n_heads=c.n_head,
        d_head=c.n_embd // c.n_head,
        d_mlp=c.n_inner or 4 * c.n_embd,
        n_ctx=c.n_positions,
        d_vocab=c.vocab_size,
        act_fn=c.activation_function,
        eps=c.layer_norm_epsilon,
        normalization_type="LN",
        device="cpu",
        dtype=torch.float32,
    )
