"""From rows to a graph."""

from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.gap import check_gap
from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.graphs.nodes import Bias, NodeTable
from tl_transcoders.circuits.graphs.outcomes import Outcomes
from tl_transcoders.circuits.graphs.rows import Block
from tl_transcoders.circuits.graphs.sweep import Sweeper

NOTHING: Final = -1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Numbering:
    """The nodes of a graph; which of them sources and targets are, NOTHING where none; and the first bias."""

    nodes: NodeTable
    source: Int[Tensor, " source"]
    target: Int[Tensor, " target"]
    first_bias: int

    @classmethod
    def of(cls, sweeper: Sweeper, chosen: Int[Tensor, " n"]) -> "Numbering":
        """Sources but features without a row here, then biases, then targets that are no source."""
        n_layers, n_sources = sweeper.circuitry.frame.n_layers, sweeper.rows.n_sources
        table = sweeper.circuitry.sources.table
        kept = ~table.is_a("feature")
        kept[chosen[chosen < n_sources]] = True
        source = torch.where(kept, kept.cumsum(0) - 1, NOTHING)
        first_bias = int(kept.sum())
        biases = NodeTable.of(map(Bias, range(n_layers + 1)), n_layers)
        outside = chosen[chosen >= n_sources]
        target = torch.full((len(sweeper.table),), NOTHING)
        target[chosen[chosen < n_sources]] = source[chosen[chosen < n_sources]]
        target[outside] = first_bias + len(biases) + torch.arange(len(outside))
        return cls(
            nodes=NodeTable.joined([table.take(kept), biases, sweeper.table.take(outside)]),
            source=source,
            target=target,
            first_bias=first_bias,
        )


@final
@dataclass(frozen=True, slots=True)
class Edges:
    """Edges, and what sources that are no nodes do to every target."""

    target: Int[Tensor, " edge"]
    source: Int[Tensor, " edge"]
    effect: Float[Tensor, " edge"]
    left_out: Float[Tensor, " target"]


def assemble(
    sweeper: Sweeper, chosen: Int[Tensor, " n"], outcomes: Outcomes, words: tuple[str, ...]
) -> Graph:
    """The graph of the targets chosen, the outcomes first among them."""
    frame, rows, sources = sweeper.circuitry.frame, sweeper.rows, sweeper.circuitry.sources
    gap = rows.gap(chosen)
    check_gap("attribution_graph", gap, *frame.dtypes, sweeper.circuitry.dtype)
    numbers = Numbering.of(sweeper, chosen)
    nodes = numbers.nodes
    zeros = torch.zeros(len(nodes), dtype=frame.dtype)
    value, left_out, activation = zeros + float("nan"), zeros.clone(), zeros.clone()
    weight = zeros.double()
    weight[numbers.target[chosen[: len(outcomes.nodes)]]] = outcomes.weight
    kept = numbers.source != NOTHING
    activation[numbers.source[kept]] = sources.activation[kept]
    edges = _edges(sweeper, chosen, numbers)
    own = numbers.target[chosen]
    value[own], left_out[own] = rows.value[chosen], edges.left_out[chosen]
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
        target=edges.target,
        source=edges.source,
        effect=edges.effect,
        gap=gap,
        run=None if sweeper.circuitry.bends else frame.run,
        no_run="linear",
    )


def _edges(sweeper: Sweeper, chosen: Int[Tensor, " n"], numbers: Numbering) -> Edges:
    """Written one block after the other into the memory of all; entries that are 0 are no edges."""
    rows = sweeper.rows
    bias = Block(0, torch.arange(len(rows.bias)), chosen, rows.bias[:, chosen])
    of_bias = numbers.first_bias + torch.arange(len(rows.bias))
    cells = [_cells(block, numbers.source[block.source], numbers.target) for block in rows.blocks]
    cells.append(_cells(bias, of_bias, numbers.target))
    n = sum(part.size for part in cells)
    target, source = torch.empty(n, dtype=torch.int32), torch.empty(n, dtype=torch.int32)
    effect = torch.empty(n, dtype=rows.value.dtype)
    left_out, done = torch.zeros_like(rows.value), 0
    for part in cells:
        scores = part.block.scores if part.columns is None else part.block.scores[:, part.columns]
        if part.rows is not None:
            left_out[part.block.target[_every(part.columns)]] += scores[~part.rows].sum(0)
            scores = scores[part.rows]
        there = scores != 0
        n = scores.numel() if there.all() else int(there.sum())
        here, shape = slice(done, done + n), scores.shape
        for edges, values in (
            (effect, scores),
            (source, part.row[:, None].expand(shape)),
            (target, part.column.expand(shape)),
        ):
            if n == scores.numel():
                edges[here].view(shape).copy_(values)
            else:
                edges[here] = values[there]
        done += n
    target, source, effect = target[:done], source[:done], effect[:done]
    return Edges(target, source, effect, left_out)


@final
@dataclass(frozen=True, slots=True)
class Cells:
    """The part of a block that is in the graph: which rows and columns (None for all), and the nodes they are."""

    block: Block
    rows: Tensor | None
    columns: Tensor | None
    row: Int[Tensor, " kept_row"]
    column: Int[Tensor, " kept_column"]

    @property
    def size(self) -> int:
        """How many entries."""
        return len(self.row) * len(self.column)


def _cells(block: Block, source: Int[Tensor, " source"], of_target: Int[Tensor, " n"]) -> Cells:
    target = of_target[block.target]
    rows, columns = source != NOTHING, target != NOTHING
    return Cells(
        block,
        None if rows.all() else rows,
        None if columns.all() else columns,
        source[rows].int(),
        target[columns].int(),
    )


def _every(columns: Tensor | None) -> Tensor | slice:
    return slice(None) if columns is None else columns
