"""Editing the dictionaries in which a host keeps its hook points, so that the edit can be undone exactly."""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from torch import nn
from transformer_lens.hook_points import HookPoint

Undo = Callable[[], None]


def rename_under(registry: MutableMapping[str, Any], prefix: str, entries: dict[str, Any]) -> Undo:
    """Replace every name under `prefix.` by `entries`; the returned call puts the old names back, in their old order."""
    order = list(registry)
    removed = {name: registry.pop(name) for name in order if name.startswith(f"{prefix}.")}
    registry.update(entries)

    def undo() -> None:
        for name in entries:
            registry.pop(name, None)
        registry.update(removed)
        for name in [*order, *(set(registry) - set(order))]:
            if name in registry:
                registry[name] = registry.pop(name)

    return undo


def named_modules_under(prefix: str, module: nn.Module) -> dict[str, nn.Module]:
    """Every submodule of `module` by its full name."""
    return {f"{prefix}.{name}": child for name, child in module.named_modules() if name}


def hook_points_under(prefix: str, module: nn.Module) -> dict[str, HookPoint]:
    """Every hook point of `module` by its full name."""
    modules = named_modules_under(prefix, module)
    return {name: child for name, child in modules.items() if isinstance(child, HookPoint)}


def name_hook_points(found: dict[str, HookPoint]) -> Undo:
    """Give nameless hook points, and those of a module that has moved, the names they are found under.

    TransformerLens files cached activations under a hook point's own name, so two must never share one.
    Hook points that were handed on keep theirs.
    """
    before = {
        hook_point: hook_point.name
        for name, hook_point in found.items()
        if hook_point.name is None or ".original." in name
    }
    for name, hook_point in found.items():
        if hook_point in before:
            hook_point.name = name

    def undo() -> None:
        for hook_point, name in before.items():
            hook_point.name = name

    return undo


def all_hook_points(module: nn.Module) -> Iterator[HookPoint]:
    """Every hook point in the tree, once."""
    return (child for child in module.modules() if isinstance(child, HookPoint))
