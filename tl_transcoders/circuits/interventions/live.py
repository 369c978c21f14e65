"""Edits while the host runs, through its hook points."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, assert_never, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_transcoders.circuits.interventions.steps import Editable, Step, within
from tl_transcoders.circuits.nodes import Error, Feature, Head, Mlp, write_node
from tl_transcoders.errors import HookNeverFiredError
from tl_transcoders.hosts import HookPoint
from tl_transcoders.splice import Spliced

Change = Callable[[Float[Tensor, "row pos *site"], int], Float[Tensor, "row pos *site"]]


@final
@dataclass(frozen=True, slots=True)
class Reached:
    """The steps that changed something so far."""

    steps: set[int] = field(default_factory=set)

    def check(self, steps: list[Step]) -> None:
        """Raise HookNeverFiredError where a step changed nothing."""
        for i, step in enumerate(steps):
            if i not in self.steps:
                raise HookNeverFiredError(
                    write_node(step.node),
                    got="a run that did not come past this node at any of the positions asked for",
                    expected="every intervention to change something",
                    do="Run the whole model, long enough, with the transcoders in place.",
                )


@contextmanager
def editing(spliced: Spliced, steps: list[Step]) -> Iterator[Reached]:
    """A context in which forward passes of the model run with these edits, after the user's hooks at the same points."""
    reached = Reached()
    by_point: dict[tuple[type, int], list[int]] = defaultdict(list)
    for i, step in enumerate(steps):
        by_point[type(step.node), step.node.layer].append(i)
    with ExitStack() as stack:
        for group in by_point.values():
            change = _change_of(steps, group, reached)
            stack.enter_context(hooked(spliced, steps[group[0]].node, change))
        yield reached


def _change_of(steps: list[Step], group: list[int], reached: Reached) -> Change:
    def change(value: Tensor, first: int) -> Tensor:
        for i in group:
            if steps[i].columns(first, value.shape[1]):
                reached.steps.add(i)
            value = steps[i].applied(value, first)
        return value

    return change


@contextmanager
def hooked(spliced: Spliced, node: Editable, change: Change) -> Iterator[None]:
    """A context in which `change(value, first)` sees, and may replace, what carries a node, from position `first` on.

    Heads have an axis of their own in `value`.
    """
    first = 0

    def count(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal first
        first = spliced.host.positions_before(node.layer, args, kwargs)

    def visit(_: nn.Module, __: object, value: Tensor) -> Tensor | None:
        split = _split(spliced, node, value)
        changed = change(split, first)
        return None if changed is split else changed.reshape(value.shape)

    block = spliced.host.block(node.layer)
    handles = [
        block.register_forward_pre_hook(count, with_kwargs=True),
        # A head writes what an SAE at z then reads.
        hook_point_of(spliced, node).register_forward_hook(visit, prepend=isinstance(node, Head)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hook_point_of(spliced: Spliced, node: Editable) -> HookPoint:
    """The hook point that carries a node."""
    match node:
        case Feature(layer):
            return spliced.hooked[layer].hook_post
        case Error(layer):
            return spliced.hooked[layer].hook_error
        case Head(layer):
            return spliced.host.hook_point("z", layer)
        case Mlp(layer):
            return spliced.host.hook_point("mlp_out", layer)
        case _:
            assert_never(node)


@torch.no_grad()
def live_sources(
    spliced: Spliced, nodes: Iterable[Editable], tokens: Int[Tensor, "batch pos"]
) -> dict[Editable, Float[Tensor, "batch pos *d"]]:
    """What nodes are in a run of the model on `tokens`."""
    seen: dict[Editable, Tensor] = {}
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(hooked(spliced, node, _recorder(node, seen)))
        spliced.host.run(tokens)
    return seen


def _recorder(node: Editable, seen: dict[Editable, Tensor]) -> Change:
    def keep(value: Tensor, first: int) -> Tensor:
        seen[node] = value[(slice(None), slice(None), *within(node))].detach().clone()
        return value

    return keep


def _split(spliced: Spliced, node: Editable, value: Tensor) -> Tensor:
    if not isinstance(node, Head):
        return value
    return value.reshape(*value.shape[:2], spliced.host.model.cfg.n_heads, -1)
