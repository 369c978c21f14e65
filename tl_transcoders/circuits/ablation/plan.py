"""Which reader reads which writer: the edges of circuits as a mask over all pairs of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, assert_never, final

import torch
from jaxtyping import Bool
from torch import Tensor

from tl_transcoders.circuits.ablation.free import Free
from tl_transcoders.circuits.ablation.setting import Setting
from tl_transcoders.circuits.checks import check_order
from tl_transcoders.circuits.nodes import (
    READERS,
    Edge,
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
    at,
    write_path,
)
from tl_transcoders.splice.trace.forward import TracedModel


@final
@dataclass(frozen=True, slots=True)
class Others:
    """All features of a layer that no edge and no `given` names: they read and write together."""

    layer: int


Unit = Node | Others
"""What reads or writes, at all positions; a head reads with its q, k and v."""
Layered = TypeVar("Layered", Head, Feature, Error, Mlp, Others)
Where = slice | int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`live[r, v, w, p]`: whether, in variant v, reader r reads at p what writer w computes, not its ablated value.

    The last axis is one long where no edge names a position. The first reader is the logits.
    """

    readers: tuple[Unit, ...]
    writers: tuple[Unit, ...]
    live: Bool[Tensor, "reader variant writer pos"]

    def of(self, kind: type[Layered], layer: int) -> dict[Layered, int]:
        """The writers of one kind in a layer, with their place among all."""
        return {
            unit: i
            for i, unit in enumerate(self.writers)
            if isinstance(unit, kind) and unit.layer == layer
        }


def plan_of(
    setting: Setting, variants: Sequence[Iterable[Edge]], *, complement: bool = False
) -> Plan:
    """The plan in which, of all edges of the model, those of each variant are live, or all others.

    **Raises:** ConfigError for an edge whose receiver does not come after its sender.
    """
    model, length = setting.run.model, setting.run.shape[1]
    chosen = [list(edges) for edges in variants]
    every = {edge for edges in chosen for edge in edges}
    for sender, receiver in sorted(every, key=write_path):
        check_order([sender], [receiver], setting.run.model)
    named = {at(node, None) for edge in every for node in edge}
    features = {n for n in named.union(setting.free.nodes) if isinstance(n, Feature)}
    given = _given(setting, features)
    senders = {at(sender, None) for sender, _ in every}
    whole = _everything(setting, features) if complement else set()
    writers = sorted({Embed(), *senders, *given, *whole}, key=repr)
    readers = [Logits(), *(reader for unit in writers for reader in inputs(unit, model))]
    row = {unit: i for i, unit in enumerate(readers)}
    column = {unit: i for i, unit in enumerate(writers)}
    positioned = any(
        n.pos is not None for n in (*setting.free.nodes, *(n for e in every for n in e))
    )
    shape = (len(readers), len(chosen), len(writers), length if positioned else 1)
    live = torch.zeros(shape, dtype=torch.bool, device=setting.run.tokens.device)
    for v, edges in enumerate(chosen):
        for sender, receiver in edges:
            for reader in inputs(at(receiver, None), model):
                if reader in row:
                    where = _shared(sender, receiver)
                    live[row[reader], v, column[at(sender, None)], where] = True
    live = ~live if complement else live
    for unit, where in given.items():
        live[:, :, column[unit], where] = True
        live[[row[reader] for reader in inputs(unit, model)], :, :, where] = True
    return Plan(readers=tuple(readers), writers=tuple(writers), live=live)


def inputs(unit: Unit, model: TracedModel) -> tuple[Unit, ...]:
    """The readers that stand for what a unit reads."""
    match unit:
        case Head(layer, head, None):
            return tuple(Head(layer, head, reader) for reader in READERS)
        case KeyValue(layer, group, reader):
            n = model.anatomy.blocks[layer].attention.heads_per_group
            return tuple(Head(layer, head, reader) for head in range(group * n, (group + 1) * n))
        case Embed():
            return ()
        case Head() | Feature() | Error() | Mlp() | Logits() | Others():
            return (unit,)
        case _:
            assert_never(unit)


def _given(setting: Setting, features: set[Feature]) -> dict[Unit, Where]:
    """What is never ablated, and at which positions."""
    named = {at(n, None): _shared(n, n) for n in setting.free.nodes if setting.counts(n)}
    free = [u for u in _everything(setting, features) if _is_free(u, setting.free)]
    return {**named, **dict.fromkeys(free, slice(None))}


def _is_free(unit: Unit, free: Free) -> bool:
    match unit:
        case Others(layer):
            return free.holds(Feature, layer)
        case Head(layer) | Feature(layer) | Error(layer) | Mlp(layer):
            return free.holds(type(unit), layer)
        case _:
            return False


def _everything(setting: Setting, features: set[Feature]) -> set[Unit]:
    layers = range(setting.run.model.n_layers)
    return {Embed(), *(unit for layer in layers for unit in _layer(setting, layer, features))}


def _layer(setting: Setting, layer: int, features: set[Feature]) -> Iterator[Unit]:
    model = setting.run.model
    for head in range(model.anatomy.blocks[layer].attention.n_heads):
        yield Head(layer, head)
    if layer not in model.swaps:
        yield Mlp(layer)
    if layer in model.coders:
        yield from (feature for feature in features if feature.layer == layer)
        yield Others(layer)
    if layer in setting.error_layers:
        yield Error(layer)


def _shared(sender: Node, receiver: Node) -> Where:
    """The positions at which an edge passes anything: where both its ends are."""
    if sender.pos is None or receiver.pos is None:
        pos = receiver.pos if sender.pos is None else sender.pos
        return slice(None) if pos is None else pos
    return sender.pos if sender.pos == receiver.pos else slice(0)
