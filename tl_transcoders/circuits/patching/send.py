"""What senders become: their values in the source run, or what their records make of them."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from tl_transcoders.circuits.checks import (
    check_reached,
    check_unpadded,
    refusal,
    tokens_of,
    width_of,
)
from tl_transcoders.circuits.edits import Edit as Record
from tl_transcoders.circuits.edits import (
    Mean,
    Patch,
    check_edit,
    count_strengths,
    edited_positions,
    new_value,
)
from tl_transcoders.circuits.nodes import Error, Feature, Node
from tl_transcoders.circuits.patching.edits import Edit
from tl_transcoders.circuits.values import (
    Place,
    Values,
    by_donor,
    check_fits,
    mean_values,
    node_value,
    place_of,
    values_of,
)
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice.trace.run import Run, capture

Nodes = Sequence[Node | str]
Senders = Nodes | Mapping[Node, Record] | Mapping[str, Record] | Mapping[Node | str, Record]


def records_of(senders: Senders, source: Run | None) -> list[Record]:
    """What is done to each sender; raises ConfigError where one has neither a record nor a source run."""
    if isinstance(senders, Mapping):
        return list(senders.values())
    return [from_source(source)] * len(senders)


def from_source(source: Run | None) -> Patch:
    """The record of what takes its value from the source run; raises ConfigError where there is none."""
    if source is None:
        raise ConfigError(
            "source",
            got="None, and senders without a value",
            expected="a source run, or a value for every sender",
            do="Give source prompts, or senders={node: tlt.Ablate()}.",
        )
    return Patch(source.tokens)


def send(records: Mapping[Node, Record], base: Run, source: Run | None) -> list[Edit]:
    """Senders set to what their records make of them, for every prompt of the base run."""
    for node, record in records.items():
        check_record(node, record, base)
    theirs: dict[Node, Tensor] = {}
    for record, nodes in by_donor(records):
        values = donated(record, base, source, {place_of(node)[0] for node in nodes})
        theirs |= {node: node_value(node, values) for node in nodes}
    return [_sent(node, record, base, theirs.get(node)) for node, record in records.items()]


def check_record(node: Node, record: Record, base: Run) -> None:
    """Raise ConfigError or ShapeError unless a record fits a node and holds one value for it."""
    width = width_of(node, base.spliced)
    check_edit(node, record, width)
    strengths = count_strengths(record, vector=width is not None)
    if strengths is not None:
        raise refusal(node, f"{strengths} strengths", "one value", "Patch once for each strength.")


def donated(record: Patch | Mean, base: Run, source: Run | None, places: Iterable[Place]) -> Values:
    """What a record takes from other prompts, at some places at least; raises ShapeError where they do not match."""
    spliced, (_, length) = base.spliced, base.shape
    if isinstance(record, Patch):
        if source is not None and record.source is source.tokens:
            return values_of(source)
        tokens = tokens_of(spliced, record.source, "Patch")
        check_unpadded(spliced, tokens, "Patch")
        check_fits(record, tokens, base.tokens)
        return values_of(capture(spliced, tokens))
    check_fits(record, tokens_of(spliced, record.tokens, "Mean"), base.tokens)
    return mean_values(spliced, record, places, length)


def kept_where_excluded(node: Node, value: Tensor, base: Tensor, excluded: Tensor | None) -> Tensor:
    """A node's new value, but its base value at positions `[row pos]` that are left to the original MLP."""
    if excluded is None or not isinstance(node, Feature | Error):
        return value
    return torch.where(excluded.view(*excluded.shape, *[1] * (value.ndim - 2)), base, value)


def _sent(node: Node, record: Record, base: Run, theirs: Tensor | None) -> Edit:
    span = edited_positions(node, record, base.shape[1])
    check_reached(node, span, base.excluded)
    (spot, layer), channel = place_of(node)
    positions = torch.tensor(list(span), device=base.tokens.device)
    old = node_value(node, values_of(base))[:, positions]
    new = new_value(record, old, None if theirs is None else theirs[:, positions])
    excluded = None if base.excluded is None else base.excluded[:, positions]
    new = kept_where_excluded(node, new, old, excluded)
    if channel is None:
        return Edit(spot=spot, layer=layer, positions=positions, value=new, base=old)
    return Edit(
        spot=spot,
        layer=layer,
        positions=positions,
        value=new.unsqueeze(2),
        base=old.unsqueeze(2),
        channels=torch.full((len(old), 1), channel, device=positions.device),
    )
