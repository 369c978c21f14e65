"""Knowing when a forward pass of a model begins and ends."""

from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from torch import nn

from tl_transcoders.hosts.registry import Undo


@runtime_checkable
class PassListener(Protocol):
    """What is told of the forward passes of a model."""

    def begin_pass(self, start_at_layer: int | None) -> None:
        """A pass begins, at the embedding or at a layer."""
        ...

    def end_pass(self) -> None:
        """It is over, whatever ended it."""
        ...


_LISTENERS: WeakKeyDictionary[nn.Module, list[PassListener]] = WeakKeyDictionary()


def watch_passes(model: nn.Module, listener: PassListener) -> Undo:
    """Tell `listener` of every forward pass of `model` until the returned call.

    Through `model.forward`, because `run_with_hooks` and `run_with_cache` call that without torch's hooks.
    """
    if model not in _LISTENERS:
        _LISTENERS[model] = []
        _announce_passes(model)
    _LISTENERS[model].append(listener)

    def undo() -> None:
        _LISTENERS[model].remove(listener)
        if not _LISTENERS[model]:
            del _LISTENERS[model]
            before = model.__dict__.pop("forward").__func__.before
            if before is not None:
                model.__dict__["forward"] = before

    return undo


def _announce_passes(model: nn.Module) -> None:
    before: Callable[..., Any] | None = model.__dict__.get("forward")

    @wraps(type(model).forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        run = MethodType(type(self).forward, self) if before is None else before
        told = list(_LISTENERS.get(self, ()))
        for listener in told:
            listener.begin_pass(kwargs.get("start_at_layer"))
        try:
            return run(*args, **kwargs)
        finally:
            for listener in told:
                listener.end_pass()

    forward.before = before  # pyright: ignore[reportAttributeAccessIssue]
    # A bound method, because a deep copy of the model binds it to the copy.
    model.__dict__["forward"] = MethodType(forward, model)
