"""How much of an edge goes through each head of a layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attention.descent import Level, descend
from tl_transcoders.circuits.attention.memory import MEMORY, chunks
from tl_transcoders.circuits.attention.passage import Passage
from tl_transcoders.circuits.attention.placed import (
    Placed,
    as_nodes,
    first_layer,
    reading,
    written,
)
from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.graphs.nodes import GraphNode, NodeTable, write
from tl_transcoders.circuits.nodes import Head
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.errors import ConfigError


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadLoadings:
    """An edge, split over the heads of one layer: Σ per_head + bypass = total.

    `bypass` is what goes past the heads of this layer: through the residual stream, a skip connection, or because a
    cross-layer feature writes it later.
    """

    per_head: Float[Tensor, " head"]
    bypass: float
    total: float


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadingTable:
    """Edges of several sources into one target, each split over the heads of every layer:

        Σ_h per_head[s, l, h] + bypass[s, l] = total[s]        in each layer l

    Layers that do not lie between source and target have nothing but bypass.
    """

    target: GraphNode
    sources: tuple[GraphNode, ...]
    per_head: Float[Tensor, "source layer head"]
    bypass: Float[Tensor, "source layer"]
    total: Float[Tensor, " source"]

    def of(self, source: GraphNode, layer: int) -> HeadLoadings:
        """The split of one edge over the heads of one layer."""
        if source not in self.sources:
            raise ConfigError(
                "LoadingTable.of",
                got=write(source),
                expected="one of its sources",
                do="Choose one of table.sources.",
            )
        row = self.sources.index(source)
        return HeadLoadings(
            per_head=self.per_head[row, layer],
            bypass=float(self.bypass[row, layer]),
            total=float(self.total[row]),
        )

    def top(self, n: int) -> list[tuple[GraphNode, Head, float]]:
        """The n largest loadings, as source, head and how much of its edge goes through that head."""
        check_sizes("LoadingTable.top", n=n)
        flat = self.per_head.flatten()
        best = flat.abs().topk(min(n, len(flat))).indices
        places = torch.stack(torch.unravel_index(best, self.per_head.shape), dim=1).tolist()
        return [
            (self.sources[source], Head(layer, head), float(self.per_head[source, layer, head]))
            for source, layer, head in places
        ]


def head_loadings(
    graph: Graph, source: GraphNode | str, *, target: GraphNode | str, layer: int
) -> HeadLoadings:
    """How much of an edge goes through each head of a layer that lies between its ends.

        per_head[h] = ⟨what head h writes of what has come from the source, ∂ target / ∂ stream⟩

    with patterns, norm scales, features, errors and MLPs frozen. What arrives at the layer has come by all ways, and
    goes on by all ways, those through heads of other layers included: loadings of different layers overlap. See
    `head_paths` for parts that do not.

    Source: Ameisen et al. 2025, Circuit Tracing (updates of July 2025, tracing attention).

    **Raises:** ConfigError for a node that is no source or no target, a layer that is not between them, or a graph
    read from a file.

    ```python
    source, target, effect = graph.top(1)[0]
    head_loadings(graph, source, target=target, layer=5).per_head
    ```
    """
    passage = Passage.of_graph(graph, "head_loadings")
    source, target = as_nodes(graph, [source, target], "head_loadings")
    table = _table(graph, target, [source], MEMORY, "head_loadings")
    first, before = first_layer(source), reading(passage, target, "head_loadings")[1]
    if type(layer) is not int or not first <= layer < before:
        raise ConfigError(
            "head_loadings, layer",
            got=repr(layer),
            expected=f"a layer between {write(source)} and {write(target)}, {first} to {before - 1}"
            if first < before
            else f"no layer: no attention lies between {write(source)} and {write(target)}",
            do="Choose one of these.",
        )
    return table.of(source, layer)


def loading_table(
    graph: Graph,
    target: GraphNode | str,
    *,
    sources: Sequence[GraphNode | str] | None = None,
    memory: int = MEMORY,
) -> LoadingTable:
    """The head loadings of many edges into a target in all layers at once: one sweep down, one up, and dot products.

    **Arguments:**

    - `sources`: those whose edges to split; by default all that have an edge into the target, biases apart.
    - `memory`: bytes the sweep up may take at a time.

    **Raises:** as `head_loadings`.
    """
    return _table(graph, target, sources, memory, "loading_table")


@torch.no_grad()
def _table(
    graph: Graph,
    target: GraphNode | str,
    sources: Sequence[GraphNode | str] | None,
    memory: int,
    what: str,
) -> LoadingTable:
    check_sizes(what, memory=memory)
    passage = Passage.of_graph(graph, what)
    (target,) = as_nodes(graph, [target], what)
    sources = None if sources is None else as_nodes(graph, sources, what)
    read, before = reading(passage, target, what)
    levels = list(descend(passage, read, before))[::-1]
    nodes = tuple(_sources_of(graph, target) if sources is None else sources)
    climb = Climb(passage, levels, read)
    parts = [
        climb.split(written(passage, nodes[part], what))
        for part in chunks(passage.frame, max(1, len(nodes)), memory)
    ]
    per_head, bypass, total = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    return LoadingTable(target=target, sources=nodes, per_head=per_head, bypass=bypass, total=total)


def _sources_of(graph: Graph, target: GraphNode) -> NodeTable:
    into = graph.target == graph.number(target)
    table = graph.nodes.take(graph.source[into].long())
    return table.take(~table.is_a("bias"))


@final
@dataclass(frozen=True, slots=True)
class Climb:
    """What sources write, on its way up to a target, and how much of it each head of each layer passes on."""

    passage: Passage
    levels: list[Level]
    read: Placed

    def split(self, sources: Placed) -> tuple[Tensor, Tensor, Tensor]:
        """`per_head [n layer head]`, `bypass [n layer]`, `total [n]`."""
        passage, n = self.passage, sources.n
        like = passage.frame.run.embed[0].to(passage.frame.dtype)
        n_heads = passage.frame.block(0).attention.n_heads
        per_head = like.new_zeros(n, passage.n_layers, n_heads)
        around, wrote = (like.new_zeros(n, passage.n_layers) for _ in range(2))
        x, total = like.new_zeros(n, *like.shape), like.new_zeros(n)
        if not self.levels:  # a feature that reads the embedding itself
            entering, read = sources.at((0, "pre"), like), self.read.at((0, "pre"), like)
            assert read is not None
            total = total if entering is None else _dot(entering, read)
        for layer, level in enumerate(self.levels):
            if layer < sources.first:
                continue
            entering = sources.at((layer, "pre"), like)
            if entering is not None:
                x, total = x + entering, total + _dot(entering, level.pre)
            heads = passage.heads[layer]
            z = heads.mix(x)
            per_head[:, layer] = torch.einsum("nqhe,qhe->nh", z, level.z[0])
            around[:, layer] = _dot(x, level.around)
            mid = x + heads.write(z)
            between, behind = (sources.at((layer, spot), like) for spot in ("mid", "post"))
            if between is not None:
                mid, wrote[:, layer] = mid + between, _dot(between, level.mid)
            x = passage.onward(layer, x, mid)
            if behind is not None:
                x, wrote[:, layer] = x + behind, wrote[:, layer] + _dot(behind, level.post)
        later = wrote.flip(1).cumsum(1).flip(1)
        total = total + wrote.sum(1)
        bypass = around + later
        bypass[:, len(self.levels) :] = total[:, None]
        return per_head, bypass, total


def _dot(x: Float[Tensor, "n pos d_model"], g: Float[Tensor, "1 pos d_model"]) -> Tensor:
    return x.flatten(1) @ g.flatten()
