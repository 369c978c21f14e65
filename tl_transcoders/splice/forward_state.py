"""What the spliced layers of one forward pass share: its tokens, the excluded positions, cross-layer features."""

import threading
from collections.abc import Collection, Sequence
from typing import Any, Literal, Self, TypeGuard, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from tl_transcoders.errors import ConfigError, HookNeverFiredError, ShapeError, SpliceError
from tl_transcoders.transcoders import SparseFeatures

Exclude = Literal["special"] | Sequence[int] | Tensor
"""Positions left to the original MLP: the tokenizer's special tokens, a list of token ids (not of positions), or a Boolean mask `[batch pos]`."""


@final
class _Pass(threading.local):
    """What belongs to one forward pass; every thread runs its own."""

    def __init__(self) -> None:
        self.edited: dict[int, Tensor | SparseFeatures] = {}
        self.unedited: dict[int, Tensor | SparseFeatures] = {}
        self.tokens: Tensor | None = None
        self.embedded = False

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


@final
class ForwardState:
    """Begun anew with every pass; cross-layer features are let go when the last spliced layer has run.

    **Arguments:** `first_needed`, the layer whose features later ones decode: no pass may start after it.
    """

    def __init__(self, exclude: Tensor | None, *, first_needed: int | None) -> None:
        self.paused = False
        self.rows = slice(None)
        self._exclude = exclude
        self._first_needed = first_needed
        self._pass = _Pass()

    @property
    def masks(self) -> bool:
        """Whether it excludes by a mask, which fits one batch of prompts only."""
        return self._exclude is not None and self._exclude.dtype == torch.bool

    @property
    def edited(self) -> dict[int, Tensor | SparseFeatures]:
        """Features of the layers so far, as hooks left them."""
        return self._pass.edited

    @property
    def unedited(self) -> dict[int, Tensor | SparseFeatures]:
        """The same before the hooks."""
        return self._pass.unedited

    def begin_pass(self, start_at_layer: int | None) -> None:
        """A pass has no tokens until it embeds them.

        While it generates, HookedTransformer embeds a token first and then starts a pass at layer 0.
        """
        self.forget_features()
        self._pass.embedded = self._pass.embedded and start_at_layer == 0
        if self._first_needed is None or start_at_layer is None:
            return
        if not 0 <= start_at_layer <= self._first_needed:
            raise SpliceError(
                "cross-layer transcoder",
                got=f"a pass with start_at_layer={start_at_layer}",
                expected=f"one that runs from layer {self._first_needed} on, whose features later layers decode",
                do="Run the forward pass from tokens (no start_at_layer).",
            )

    def end_pass(self) -> None:
        """Its tokens are not those of a later pass."""
        self._pass.embedded = False

    def embed(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The embedding's forward pre-hook: take this pass' tokens."""
        if self.paused or self._exclude is None:
            return
        tokens = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        # Without a cache, it may then run the whole sequence again.
        before = self._pass.tokens
        if before is not None and tokens.shape == (len(before), 1):
            tokens = torch.cat([before, tokens], dim=1)
        self._pass.tokens, self._pass.embedded = tokens, True

    def forget_features(self) -> None:
        """Let go of the cross-layer features of this pass."""
        self._pass.edited, self._pass.unedited = {}, {}

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

    def check_mask(self, shape: torch.Size) -> None:
        """Raise ShapeError where a mask says which positions are excluded and these are not its."""
        exclude = self._exclude
        if exclude is None or exclude.dtype != torch.bool or exclude[self.rows].shape == shape:
            return
        raise ShapeError(
            "exclude mask",
            got=f"shape {tuple(exclude[self.rows].shape)} for tokens {tuple(shape)}",
            expected="one entry per token of the batch",
            do="Give token ids instead of a mask to run (or generate) other lengths.",
        )

    def _mask(self, exclude: Tensor, shape: torch.Size) -> Bool[Tensor, "batch pos"]:
        if exclude.dtype == torch.bool:
            self.check_mask(shape)
            return exclude[self.rows]
        tokens = self._pass.tokens if self._pass.embedded else None
        if tokens is None or len(tokens) != shape[0] or tokens.shape[1] < shape[1]:
            raise HookNeverFiredError(
                "exclude",
                got="a forward pass that did not call the token embedding",
                expected="token ids, from which the excluded positions follow",
                do="Pass tokens (no start_at_layer, no inputs_embeds), or splice without exclude=.",
            )
        return torch.isin(tokens[:, -shape[1] :], exclude.to(tokens.device))


def exclude_to_tensor(exclude: Exclude | None, tokenizer: Any, d_vocab: int) -> Tensor | None:
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
    elif _are_ids(exclude) and all(0 <= token < d_vocab for token in exclude):
        return torch.tensor(list(exclude), dtype=torch.long)
    else:
        got = (
            f"{exclude!r} (the vocabulary ends at {d_vocab - 1})"
            if _are_ids(exclude)
            else repr(exclude)
        )
    raise ConfigError(
        "exclude",
        got=got,
        expected="'special', a list of token ids (not of positions), or a Boolean mask [batch pos]",
        do="For single positions give a mask tensor, torch.tensor([[True, False, ...]]).",
    )


def _are_ids(exclude: object) -> TypeGuard[Collection[int]]:
    if isinstance(exclude, str | bytes) or not isinstance(exclude, Collection):
        return False
    return all(type(token) is int for token in exclude)
