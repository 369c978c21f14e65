"""From rows over slots to a graph over nodes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.graphs.nodes import Bias, NodeTable
from tl_transcoders.circuits.graphs.outcomes import Outcomes
from tl_transcoders.circuits.graphs.sources import NOTHING, Sources
from tl_transcoders.circuits.graphs.sweep import Rows
from tl_transcoders.circuits.graphs.trace import Traced
from tl_transcoders.errors import SpliceError

TOLERANCE: Final = {torch.float64: 1e-10, torch.float32: 1e-4}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Numbering:
    """The nodes of a graph, and which of them every slot, every target and the first bias is."""

    nodes: NodeTable
    slot: Int[Tensor, "pos slot"]
    target: Int[Tensor, " target"]
    first_bias: int

    @classmethod
    def of(cls, frame: Frame, sources: Sources, traced: Traced) -> "Numbering":
        """Sources but features without a row, then biases, then outcomes that are no source."""
        kept = ~sources.table.is_a("feature")
        kept[traced.source[traced.source >= 0]] = True
        number = torch.where(kept, kept.cumsum(0) - 1, NOTHING)
        first_bias = int(kept.sum())
        biases = NodeTable.of(map(Bias, range(frame.n_layers + 1)), frame.n_layers)
        outside = traced.source < 0
        after = first_bias + len(biases) + outside.cumsum(0) - 1
        return cls(
            nodes=NodeTable.joined(
                [sources.table.take(kept), biases, traced.targets.take(outside)]
            ),
            slot=torch.where(sources.node >= 0, number[sources.node], NOTHING),
            target=torch.where(outside, after, number[traced.source]),
            first_bias=first_bias,
        )


@final
@dataclass(frozen=True, slots=True)
class Edges:
    """Edges of some rows, and what slots without a node do to their targets."""

    target: Int[Tensor, " edge"]
    source: Int[Tensor, " edge"]
    effect: Float[Tensor, " edge"]
    left_out: Float[Tensor, " n"]


def assemble(
    frame: Frame, sources: Sources, traced: Traced, outcomes: Outcomes, words: tuple[str, ...]
) -> Graph:
    """The graph; the rows are used up."""
    numbers = Numbering.of(frame, sources, traced)
    nodes = numbers.nodes
    zeros = torch.zeros(len(nodes), dtype=frame.dtype)
    value, left_out, activation = zeros + float("nan"), zeros.clone(), zeros.clone()
    weight = zeros.double()
    weight[numbers.target[: len(outcomes.nodes)]] = outcomes.weight
    number = numbers.slot[sources.node >= 0]
    activation[number[number >= 0]] = sources.activation[number >= 0]
    gap, edges = 0.0, []
    for rows in _taken(traced.rows):
        gap = max(gap, rows.gap)
        found = _edges(rows, numbers)
        own = numbers.target[rows.target]
        value[own], left_out[own] = rows.value.cpu(), found.left_out
        edges.append(found)
    _check_gap(gap, frame)
    return Graph(
        tokens=frame.run.tokens[0].cpu(),
        words=words,
        vocabulary=outcomes.vocabulary,
        n_layers=frame.n_layers,
        errors=next(iter(frame.run.model.swaps.values())).policy,
        nodes=nodes,
        activation=activation,
        weight=weight,
        value=value,
        left_out=left_out,
        target=torch.cat([part.target for part in edges]),
        source=torch.cat([part.source for part in edges]),
        effect=torch.cat([part.effect for part in edges]),
        gap=gap,
        run=frame.run,
    )


def _taken(rows: list[Rows]) -> Iterator[Rows]:
    """Each once, and let go of."""
    while rows:
        yield rows.pop(0)


def _edges(rows: Rows, numbers: Numbering) -> Edges:
    slot = numbers.slot[: len(rows.scores)].flatten()
    flat = rows.scores.flatten(0, 1).cpu()
    (kept,) = (slot != NOTHING).nonzero(as_tuple=True)
    bias = numbers.first_bias + torch.arange(len(rows.bias))
    every = torch.cat([flat if len(kept) == len(flat) else flat[kept], rows.bias.cpu()])
    source, row = every.nonzero(as_tuple=True)
    total = flat.sum(0) + rows.bias.cpu().sum(0)
    return Edges(
        target=numbers.target[rows.target][row].int(),
        source=torch.cat([slot[kept], bias])[source].int(),
        effect=every[source, row],
        left_out=total - every.sum(0) if len(kept) < len(flat) else torch.zeros_like(total),
    )


def _check_gap(gap: float, frame: Frame) -> None:
    tolerance = TOLERANCE.get(frame.run.embed.dtype, 0.05)
    if not gap <= tolerance:
        raise SpliceError(
            "attribution_graph",
            got=f"rows that miss their targets' pre-activations by {gap:.2g} of the sum of their entries",
            expected=f"at most {tolerance:.2g}",
            do="This model computes something the graph does not describe: please report it.",
        )
