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
        self._tokens: Tensor | None = None

    @property
    def masks(self) -> bool:
        """Whether it excludes by a mask, which fits one batch of prompts only."""
        return self._exclude is not None and self._exclude.dtype == torch.bool

    def begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The embedding's forward pre-hook: take this pass' tokens."""
        self.forget_features()
        if self.paused or self._exclude is None:
            return
        tokens = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        # While it generates, HookedTransformer embeds one new token and may run the whole sequence again.
        before = self._tokens
        if before is not None and tokens.shape == (len(before), 1):
            tokens = torch.cat([before, tokens], dim=1)
        self._tokens = tokens

    def forget_features(self) -> None:
        """Let go of the cross-layer features of this pass."""
        self.edited, self.unedited = {}, {}

    def excluded(self, shape: torch.Size) -> Bool[Tensor, "batch pos"] | None:
        """The positions of a pass of this shape that are left to the original MLP, or None."""
        if self._exclude is None or self.paused:
            return None
        mask = self._mask(self._exclude, shape)
        return mask if mask.any() else None

    def excluded_in(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"] | None:
        """The positions of these prompts that would be left to the original MLP; None where no position may be."""
        exclude = self._exclude
        if exclude is None:
            return None
        if exclude.dtype == torch.bool:
            return self._mask(exclude, tokens.shape)
        return torch.isin(tokens, exclude.to(tokens.device))

    def _mask(self, exclude: Tensor, shape: torch.Size) -> Bool[Tensor, "batch pos"]:
        if exclude.dtype == torch.bool:
            if exclude.shape != shape:
                raise ShapeError(
                    "exclude mask",
                    got=f"shape {tuple(exclude.shape)} for tokens {tuple(shape)}",
                    expected="one entry per token of the batch",
                    do="Give token ids instead of a mask to run (or generate) other lengths.",
                )
            return exclude
        tokens = self._tokens
        if tokens is None or len(tokens) != shape[0] or tokens.shape[1] < shape[1]:
            raise HookNeverFiredError(
                "exclude",
                got="a forward pass that did not call the token embedding",
                expected="token ids, from which the excluded positions follow",
                do="Pass tokens (no start_at_layer, no inputs_embeds), or splice without exclude=.",
            )
        return torch.isin(tokens[:, -shape[1] :], exclude.to(tokens.device))


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
