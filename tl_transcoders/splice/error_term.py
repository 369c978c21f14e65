"""The error mlp(x) − transcoder(x): dropped, kept, or frozen at its value in a base run."""

from typing import final

import torch
from torch import Tensor

from tl_transcoders._types import ErrorPolicy
from tl_transcoders.errors import ShapeError, SpliceError


@final
class ErrorTerm:
    """What is added to a reconstruction."""

    def __init__(self, policy: ErrorPolicy, where: str) -> None:
        self.policy: ErrorPolicy = policy
        self._where = where
        self.recording = self.paused = False
        self.rows = slice(None)
        """Which prompts of the base run are running."""
        self._frozen: Tensor | None = None

    @property
    def needs_original(self) -> bool:
        """Whether the original MLP has to run for it."""
        return self.policy == "keep" or self.recording

    @property
    def stored(self) -> Tensor | None:
        """The error of the base run, under the policy that uses it."""
        return self._running if self.policy == "freeze" else None

    def value(self, original: Tensor | None, unedited: Tensor) -> Tensor | None:
        """The error to add, detached; None stands for zero."""
        if self.paused:
            return None
        if original is not None:
            error = (original - unedited).detach()
            if self.recording:
                self._frozen = error
            return error
        return self._frozen_for(unedited) if self.policy == "freeze" else None

    @property
    def _running(self) -> Tensor | None:
        frozen = self._frozen
        return frozen if frozen is None or len(frozen) == 1 else frozen[self.rows]

    def _frozen_for(self, like: Tensor) -> Tensor:
        frozen = self._running
        if frozen is None:
            raise SpliceError(
                f"{self._where}, error='freeze'",
                got="no base run",
                expected="the errors of a base run",
                do="Call spliced.freeze(tokens) first, or splice with base=tokens.",
            )
        fits = frozen.shape[1:] == like.shape[1:]
        if not fits or frozen.shape[0] not in (1, like.shape[0]):
            raise ShapeError(
                f"{self._where}, error='freeze'",
                got=f"a run of shape {tuple(like.shape[:-1])}",
                expected=f"the shape of the base run, {tuple(frozen.shape[:-1])}",
                do=(
                    "Freeze a base run of the same length (one prompt serves any batch). To generate, whose "
                    "every token has another length, splice with error='keep' or 'drop'."
                ),
            )
        return frozen


def as_leaf(error: Tensor) -> Tensor:
    """A copy that hooks may write into, under autograd a leaf: hooks on it see d metric / d error."""
    return error.clone().requires_grad_(torch.is_grad_enabled())
