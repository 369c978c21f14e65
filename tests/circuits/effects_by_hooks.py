"""The slow twin of attribution patching: the host's own hooks and gradients."""

from typing import Any

import torch
from torch import Tensor

from tl_transcoders.circuits.metrics import Metric
from tl_transcoders.splice import Spliced


def effects_by_hooks(
    spliced: Spliced, base: Tensor, source: Tensor, metric: Metric
) -> dict[str, Tensor]:
    """(source − base) · gradient at the hook points of heads, features and errors."""
    model, kept = spliced.host.model, {}
    names = [f"blocks.{i}.attn.hook_z" for i in range(spliced.host.n_layers)]
    names += [
        f"blocks.{i}.mlp.{name}" for i in spliced.layers for name in ("hook_post", "hook_error")
    ]

    def keeper(name: str) -> Any:
        def keep(value: Tensor, hook: Any) -> Tensor:
            kept[name] = value if value.requires_grad else value.clone().requires_grad_()
            kept[name].retain_grad()
            return kept[name]

        return name, keep

    with torch.no_grad():
        _, theirs = model.run_with_cache(source, names_filter=lambda name: name in names)
    with torch.enable_grad():
        logits = model.run_with_hooks(
            base, fwd_hooks=[keeper(name) for name in names], return_type="logits"
        )
        metric(logits).sum().backward()
    model.zero_grad()
    return {
        name: (theirs[name] - value.detach()) * value.grad
        for name, value in kept.items()
        if value.grad is not None
    }
