"""A blueprint as a HookedTransformer (transformer-lens 3.9 only)."""

from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from tests.cases import tokenizer
from tests.circuits.blueprint import FLAT_EPS, FLAT_GAIN, POSITIONS, VOCAB, Blueprint


def build(plan: Blueprint) -> Any:
    assert plan.architecture == "gpt2"
    cfg = HookedTransformerConfig(
        n_layers=len(plan.layers),
        d_model=plan.d_model,
        n_ctx=POSITIONS,
        d_head=plan.d_head,
        n_heads=plan.heads,
        d_mlp=plan.mlp(plan.layers[0])["W_in"].shape[1],
        d_vocab=VOCAB,
        act_fn="relu",
        normalization_type="LN",
        eps=FLAT_EPS,
        dtype=torch.float64,
        device="cpu",
        default_prepend_bos=False,
        seed=0,
    )
    model = HookedTransformer(cfg, tokenizer=tokenizer(), move_to_device=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(FLAT_GAIN if name.endswith(".w") else 0.0)
        model.embed.W_E.copy_(plan.table(plan.embeds, VOCAB))
        model.pos_embed.W_pos.copy_(plan.table(plan.positions, POSITIONS))
        model.unembed.W_U.copy_(plan.W_U())
        for block, layer in zip(model.blocks, plan.layers, strict=True):
            for name, tensor in plan.attention(layer).items():
                getattr(block.attn, name).copy_(tensor)
            for name, tensor in plan.mlp(layer).items():
                getattr(block.mlp, name).copy_(tensor)
    return model.eval().requires_grad_(False)
