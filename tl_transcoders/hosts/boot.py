"""Booting models from folders of Hugging Face files, without a network."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, PreTrainedModel
from transformers.utils import logging

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
    HookedTransformerConfig: Any = None
    convert_gpt2_weights: Any = None


def boot_bridge(
    model: str | Path | PreTrainedModel,
    *,
    tokenizer: Any = None,
    name: str | None = None,
    compatibility: bool = False,
    device: str = "cpu",
) -> TransformerBridge:
    """A TransformerBridge on a folder of Hugging Face files, or on a model already in memory.

    **Arguments:**

    - `tokenizer`: by default the one in the folder of the model.
    - `name`: what the model is called in `cfg.model_name`; by default the name it was loaded under.
    - `compatibility`: whether norm gains are folded into the weights, as HookedTransformer does.
    """
    hf_model = model if isinstance(model, PreTrainedModel) else _load(AutoModelForCausalLM, model)
    folder = hf_model.config.name_or_path
    bridge = TransformerBridge.boot_transformers(
        folder if name is None else name,
        hf_model=hf_model,
        tokenizer=AutoTokenizer.from_pretrained(folder) if tokenizer is None else tokenizer,
        device=device,
    )
    if compatibility:
        bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge


def boot_hooked_gpt2(folder: str | Path, *, processed: bool, name: str | None = None) -> Any:
    """A HookedTransformer (transformer-lens 3.9) on a folder that holds a GPT-2.

    **Arguments:** `processed`, whether norm gains are folded into the weights and writing weights centred;
    `name`, what the model is called in `cfg.model_name`.

    **Raises:** ConfigError on TransformerLens 4, which has no HookedTransformer.
    """
    if HookedTransformer is None:
        raise ConfigError(
            "boot_hooked_gpt2",
            got="transformer-lens 4, which has no HookedTransformer",
            expected="transformer-lens 3.9",
            do="Use the TransformerBridge, or pip install 'transformer-lens>=3.9,<4'.",
        )
    gpt2 = _load(GPT2LMHeadModel, folder)
    cfg = _gpt2_config(gpt2, str(folder) if name is None else name)
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


def _load(kind: Any, folder: str | Path) -> Any:
    with _no_progress_bar():
        return kind.from_pretrained(folder, attn_implementation="eager")


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Hide transformers' bar, which says nothing of a model read from a local folder."""
    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _gpt2_config(gpt2: GPT2LMHeadModel, name: str) -> Any:
    c = gpt2.config
    return HookedTransformerConfig(
        model_name=name,
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
