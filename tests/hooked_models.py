"""The tiny models as HookedTransformer (transformer-lens 3.9 only)."""

from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions as convert

from tests import cases


def build_hooked(architecture: str, processed: bool) -> Any:
    hf = cases.hf_model(architecture)
    fields, converter = {
        "gpt2": (_gpt2, convert.convert_gpt2_weights),
        "llama-gqa": (_llama, convert.convert_llama_weights),
        "neox": (_neox, convert.convert_neox_weights),
        "gemma3": (_gemma3, convert.convert_gemma_weights),
    }[architecture]
    c = hf.config
    common = {
        "d_model": cases.D_MODEL,
        "n_layers": cases.N_LAYERS,
        "n_heads": 2,
        "d_mlp": 29,
        "d_head": 10,
        "n_ctx": 64,
        "d_vocab": cases.VOCAB,
        "device": "cpu",
        "dtype": torch.float32,
        "default_prepend_bos": False,
        "seed": 0,
    }
    cfg = HookedTransformerConfig.from_dict({**common, **fields(c)})
    model = HookedTransformer(cfg, tokenizer=cases.tokenizer(), move_to_device=False)
    model.load_and_process_state_dict(
        {k: v.detach().clone() for k, v in converter(hf, cfg).items()},
        fold_ln=processed,
        center_writing_weights=processed and cfg.normalization_type.startswith("LN"),
        center_unembed=processed,
        fold_value_biases=processed,
    )
    return model.eval()


def _gpt2(c: Any) -> dict[str, Any]:
    return {
        "eps": c.layer_norm_epsilon,
        "act_fn": "gelu_new",
        "normalization_type": "LN",
        "original_architecture": "GPT2LMHeadModel",
    }


def _neox(c: Any) -> dict[str, Any]:
    return {
        "eps": c.layer_norm_eps,
        "act_fn": c.hidden_act,
        "normalization_type": "LN",
        "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": round(c.rope_parameters["partial_rotary_factor"] * 10),
        "original_architecture": "GPTNeoXForCausalLM",
    }


def _llama(c: Any) -> dict[str, Any]:
    return {
        "eps": c.rms_norm_eps,
        "act_fn": "silu",
        "gated_mlp": True,
        "normalization_type": "RMS",
        "n_key_value_heads": 1,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": 10,
        "rotary_base": int(c.rope_parameters["rope_theta"]),
        "final_rms": True,
        "original_architecture": "LlamaForCausalLM",
    }


def _gemma3(c: Any) -> dict[str, Any]:
    rope = c.rope_parameters
    return {
        "eps": c.rms_norm_eps,
        "act_fn": "gelu_pytorch_tanh",
        "gated_mlp": True,
        "normalization_type": "RMS",
        "n_key_value_heads": 1,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": 10,
        "rotary_base": int(rope["full_attention"]["rope_theta"]),
        "rotary_base_local": int(rope["sliding_attention"]["rope_theta"]),
        "final_rms": True,
        "use_normalization_before_and_after": True,
        "use_qk_norm": True,
        "use_local_attn": True,
        "window_size": 5,
        "attn_types": ["local" if t == "sliding_attention" else "global" for t in c.layer_types],
        "attn_scale": c.query_pre_attn_scalar**0.5,
        "original_architecture": "Gemma3ForCausalLM",
    }
