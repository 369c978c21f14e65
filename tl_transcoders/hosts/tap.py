"""Reading the value of a hook point in every forward pass, after all of the user's hooks there."""

import threading
from collections import OrderedDict
from typing import Any, Self, final

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from tl_transcoders.errors import HookNeverFiredError


@final
class _Seen(threading.local):
    """What this thread's forward pass has brought."""

    value: Tensor | None = None

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


@final
class Tap:
    """Remembers what a hook point of a block carried in the current forward pass.

    The hook is added anew when the block is entered and removed when it has fired, so that it comes
    after hooks the user adds later, survives `reset_hooks`, and never stays behind. Passes of two threads
    at once may take it from each other, and then raise; none gets the other's value.
    """

    def __init__(self, block: nn.Module, hook_point: HookPoint, where: str) -> None:
        self._hook_point, self._where = hook_point, where
        self._seen = _Seen()
        self._lens: Any = None
        self._entry = block.register_forward_pre_hook(self._arm)

    def take(self) -> Tensor:
        """The value of this forward pass; raises HookNeverFiredError where there was none."""
        value, self._seen.value = self._seen.value, None
        if value is None:
            raise HookNeverFiredError(
                self._where,
                got="no value in this forward pass",
                expected="the hook to fire before the transcoder reads it",
                do="Choose another read site, or run the whole block, in one thread and without gradient checkpointing.",
            )
        return value

    def remove(self) -> None:
        """Take the hooks off."""
        self._disarm()
        self._entry.remove()
        self._seen.value = None

    def _arm(self, _module: nn.Module, _args: tuple[object, ...]) -> None:
        self._disarm()
        self._seen.value = None
        self._hook_point.add_hook(self._record)
        self._lens = self._hook_point.fwd_hooks[-1]

    def _record(self, tensor: Tensor, hook: object) -> None:
        self._seen.value = tensor
        self._disarm()

    def _disarm(self) -> None:
        if self._lens is None:
            return
        self._lens.hook.remove()
        hooks = self._hook_point.fwd_hooks
        hooks[:] = [lens for lens in hooks if lens is not self._lens]
        self._lens = None


def is_hooked(hook_point: HookPoint) -> bool:
    """Whether any hook, TransformerLens' or torch's, would see this hook point's value."""
    return bool(
        hook_point._forward_hooks
        or hook_point._forward_pre_hooks
        or hook_point._backward_hooks
        or hook_point._backward_pre_hooks
    )


def tensor_version(tensor: Tensor) -> int | None:
    """The count of in-place writes so far; None in inference mode, where torch does not count them."""
    return None if tensor.is_inference() else tensor._version


@final
class Silence:
    """A context in which none of these hook points' hooks fire, but for the torch hooks whose ids are in `keep`."""

    _SLOTS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

    def __init__(self, hook_points: list[HookPoint], *, keep: set[int]) -> None:
        self._hook_points, self._keep = hook_points, keep
        self._saved: list[tuple[HookPoint, str, OrderedDict[int, Any]]] = []

    def __enter__(self) -> None:
        for hook_point in self._hook_points:
            attributes = vars(hook_point)
            for slot in self._SLOTS:
                hooks = attributes[slot]
                if hooks:
                    kept = OrderedDict((i, hook) for i, hook in hooks.items() if i in self._keep)
                    self._saved.append((hook_point, slot, hooks))
                    setattr(hook_point, slot, kept)

    def __exit__(self, *_: object) -> None:
        for hook_point, slot, hooks in self._saved:
            setattr(hook_point, slot, hooks)
