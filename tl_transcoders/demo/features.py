"""What the features at the last position of a prompt do to the prediction."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.demo.measure import Logits
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced
from tl_transcoders.transcoders import CrossLayerTranscoder


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveFeature:
    """A feature, its activation, and what it adds to every logit directly (mean over the vocabulary removed)."""

    layer: int
    index: int
    activation: float
    push: Float[Tensor, " vocab"]

    @property
    def name(self) -> str:
        """`f{layer}.{index}`."""
        return f"f{self.layer}.{self.index}"

    @property
    def hook_name(self) -> str:
        """The hook point that carries it."""
        return f"blocks.{self.layer}.mlp.hook_post"

    def without(self, model: Any) -> Logits:
        """`model` with this feature at 0 at every position."""

        def switch_off(features: Tensor, hook: object) -> Tensor:
            kept = torch.ones(features.shape[-1], device=features.device)
            kept[self.index] = 0
            return features * kept

        return lambda tokens: model.run_with_hooks(tokens, fwd_hooks=[(self.hook_name, switch_off)])


def active_features(spliced: Spliced, tokens: Int[Tensor, "1 pos"]) -> list[ActiveFeature]:
    """The active features at the last position, and their direct effect with the final norm's scale held.

        push = a · (W_dec[i] − mean W_dec[i]) · w / scale @ W_U

    Raises ConfigError for a cross-layer transcoder, whose features write to several layers.
    """
    model, transcoders = spliced.model, spliced.transcoders
    if isinstance(transcoders, CrossLayerTranscoder):
        raise ConfigError(
            "active_features",
            got="a cross-layer transcoder",
            expected="transcoders of single layers",
            do="Splice another kind, such as load_transcoders('skip').",
        )
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
        gain = model.ln_final.weight / cache["ln_final.hook_scale"][0, -1]
        found = []
        for layer, transcoder in transcoders.items():
            post = cache[f"blocks.{layer}.mlp.hook_post"][0, -1]
            for index in post.nonzero()[:, 0].tolist():
                write = post[index] * transcoder.W_dec[index]
                push = ((write - write.mean()) * gain) @ model.W_U
                found.append(
                    ActiveFeature(
                        layer=layer,
                        index=index,
                        activation=float(post[index]),
                        push=push - push.mean(),
                    )
                )
    return found
