"""What the spliced layers of one forward pass share: its tokens, the excluded positions, cross-layer features."""

from collections.abc import Sequence
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from tl_transcoders.errors import ConfigError, HookNeverFiredError, ShapeError
from tl_transcoders.transcoders import SparseFeatures

Exclude = Literal["special"] | Sequence[int] | Tensor
"""Positions left to the original MLP: the tokenizer's special tokens, a list of token ids, or a Boolean mask `[batch pos]`."""


@final
class ForwardState:
    """Begun anew when the embedding is called; cross-layer features are let go when the last spliced layer has run."""

    def __init__(self, exclude: Tensor | None) -> None:
        self.paused = False
        self.edited: dict[int, Tensor | SparseFeatures] = {}
        self.unedited: dict[int, Tensor | SparseFeatures] = {}
        self._exclude = exclude
        self._mask: Tensor | None = None
        self._begun = False

    def begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The embedding's forward pre-hook: take this pass' tokens."""
        self.forget_features()
        if self.paused:
            return
        tokens = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        self._mask = self._mask_of(tokens)
        self._begun = True

    def forget_features(self) -> None:
        """Let go of the cross-layer features of this pass."""
        self.edited, self.unedited = {}, {}

    def excluded(self) -> Bool[Tensor, "batch pos"] | None:
        """The positions of this pass that are left to the original MLP, or None."""
        if self._exclude is None or self.paused:
            return None
        if not self._begun:
            raise HookNeverFiredError(
                "exclude",
                got="a forward pass that did not call the token embedding",
                expected="token ids, from which the excluded positions follow",
                do="Pass tokens (no start_at_layer, no inputs_embeds), or splice without exclude=.",
            )
        return self._mask

    def _mask_of(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"] | None:
        if self._exclude is None:
            return None
        if self._exclude.dtype == torch.bool:
            if self._exclude.shape != tokens.shape:
                raise ShapeError(
                    "exclude mask",
                    got=f"shape {tuple(self._exclude.shape)} for tokens {tuple(tokens.shape)}",
                    expected="one entry per token of the batch",
                    do="Give token ids instead of a mask to run (or generate) other lengths.",
                )
            mask = self._exclude.to(tokens.device)
        else:
            mask = torch.isin(tokens, self._exclude.to(tokens.device))
        return mask if mask.any() else None


def exclude_to_tensor(exclude: Exclude | None, tokenizer: Any) -> Tensor | None:
    """The token ids or Boolean mask `exclude` stands for; raises ConfigError where it stands for none."""
    if exclude is None:
        return None
    if isinstance(exclude, Tensor):
        if exclude.dtype == torch.bool and exclude.ndim == 2:
            return exclude
        got = f"a tensor of {exclude.dtype}, shape {tuple(exclude.shape)}"
    elif exclude == "special":
        ids = getattr(tokenizer, "all_special_ids", None)
        if ids:
            return torch.tensor(ids)
        got = "'special', and a model without a tokenizer that has special tokens"
    elif not isinstance(exclude, str) and all(isinstance(i, int) for i in exclude):
        return torch.tensor(list(exclude), dtype=torch.long)
    else:
        got = repr(exclude)
    raise ConfigError(
        "exclude",
        got=got,
        expected="'special', a list of token ids, or a Boolean mask [batch pos]",
        do="Name the positions in one of these ways.",
    )
