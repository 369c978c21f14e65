"""The graph in which the strongest heads are nodes of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.attention.head_rows import (
    Readings,
    strengths,
    sweep,
)
from tl_transcoders.circuits.attention.memory import MEMORY, chunks
from tl_transcoders.circuits.attention.passage import Passage
from tl_transcoders.circuits.attention.placed import Placed
from tl_transcoders.circuits.attention.prompt import check_head
from tl_transcoders.circuits.graphs.gap import check_gap
from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.graphs.influence import influence, shares
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.circuits.graphs.sources import Sources
from tl_transcoders.circuits.nodes import Head, write_node
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.errors import ConfigError

NOTHING: Final = -1


@torch.no_grad()
def with_heads(graph: Graph, heads: int | Sequence[Head], *, memory: int = MEMORY) -> Graph:
    """The graph in which heads at positions are nodes: what passes through them is an edge to and an edge from them.

        effect[t ← h] = ⟨∂t/∂z_h, z_h⟩          z_h: what the head mixed at its position, pattern frozen, biases included
        effect[h ← s] = ⟨r_h, z_h of s⟩         Σ_s effect[h ← s] = value[h] = ⟨r_h, z_h⟩

    An edge t ← s keeps only what passes through no chosen head, so that nothing counts twice and rows still sum. What
    a head mixes is a vector; its row splits it along r_h, the direction in which it matters to the graph:

        r_h = Σ_t (influence[t] + weight[t]) · sign(effect[t ← h]) / Σ_s |effect[t ← s]| · ∂t/∂z_h

    which makes value[h] its influence. Edges are those between the nodes of the graph given: prune afterwards.

    **Arguments:**

    - `heads`: how many, the strongest first by Σ_t (influence + weight)[t] |effect[t ← h]| / Σ_s |effect[t ← s]|; or
      which, those without a position at all of them. Heads that do nothing to any target are left out.
    - `memory`: bytes a sweep may take at a time.

    **Raises:** ConfigError for a number below 1, heads the model does not have, a graph that has heads already, or
    one read from a file.

    ```python
    explained = with_heads(graph, 20).prune()
    explained.top(5, target=Head(18, 6, pos=17))
    ```
    """
    check_sizes("with_heads", memory=memory)
    passage = Passage.of_graph(graph, "with_heads")
    if passage.cut:
        raise ConfigError(
            "with_heads",
            got="a graph that has heads",
            expected="one as attribution_graph returned it",
            do="Name all heads at once.",
        )
    (own,) = (~graph.value.isnan()).nonzero(as_tuple=True)
    own = own[graph.nodes.layer[own].argsort(descending=True, stable=True)]
    chosen = _chosen(graph, passage, own, heads, memory)
    return Build.of(graph, passage, chosen).run(own, memory)


def _chosen(
    graph: Graph,
    passage: Passage,
    own: Int[Tensor, " target"],
    heads: int | Sequence[Head],
    memory: int,
) -> tuple[Head, ...]:
    """The heads to be nodes, the last layers first."""
    _check(graph, heads)
    total = _flowing(graph)[own]
    share = (graph.influence() + graph.weight)[own] / total.clamp(min=1e-30)
    found = 0.0
    for part in chunks(passage.frame, len(own), memory):
        reading = Readings.of(passage, graph.nodes.take(own[part]))
        found = found + strengths(passage, reading, share[part])
    assert isinstance(found, Tensor)
    order = found.flatten().argsort(descending=True, stable=True)
    order = order[found.flatten()[order] > 0]
    at = torch.stack(torch.unravel_index(order, found.shape), dim=1).tolist()
    every = [Head(layer, head, None, pos) for layer, pos, head in at]
    if isinstance(heads, int):
        kept = every[:heads]
    else:
        named = set(heads)
        kept = [head for head in every if head in named or replace(head, pos=None) in named]
    return tuple(sorted(kept, key=lambda head: (-head.layer, head.head, head.pos)))


def _check(graph: Graph, heads: int | Sequence[Head]) -> None:
    if isinstance(heads, int):
        if isinstance(heads, bool) or heads < 1:
            raise ConfigError(
                "with_heads, heads",
                got=repr(heads),
                expected="how many, 1 or more, or a list of heads",
                do="Write with_heads(graph, 20).",
            )
        return
    run = graph.run_for("with_heads")
    for head in heads:
        check_head(run, head, "with_heads", at=True)
        if head.pos is not None and not 0 <= head.pos < len(graph.tokens):
            raise ConfigError(
                "with_heads, heads",
                got=write_node(head),
                expected=f"a position from 0 to {len(graph.tokens) - 1}",
                do="Choose a position of the prompt.",
            )


def _flowing(graph: Graph) -> Float[Tensor, " node"]:
    """Σ |effect| into every node, biases apart."""
    flows = ~graph.nodes.is_a("bias")[graph.source.long()]
    total = torch.zeros(len(graph.nodes), dtype=torch.float64)
    return total.index_add_(0, graph.target[flows].long(), graph.effect[flows].abs().cpu().double())


@final
@dataclass(frozen=True, slots=True)
class AtHeads:
    """What chosen heads do to some targets, and the targets' gradients of what they mix."""

    number: Int[Tensor, " n"]
    effect: Float[Tensor, "n chosen"]
    gradient: Float[Tensor, "n chosen d_head"]


@final
@dataclass(kw_only=True)
class Build:
    """A graph with heads in the making: `nodes` are those of the graph, then the chosen heads."""

    graph: Graph
    nodes: NodeTable
    cut: Passage
    whole: Passage
    chosen: tuple[Head, ...]
    sources: Sources
    weight: Float[Tensor, " node"]
    value: Float[Tensor, " node"]
    left_out: Float[Tensor, " node"]
    gap: float = 0.0
    _edges: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    _rows: list[AtHeads] = field(default_factory=list)

    @classmethod
    def of(cls, graph: Graph, whole: Passage, chosen: tuple[Head, ...]) -> "Build":
        """One without any edge."""
        zeros = graph.value.new_zeros(len(chosen))
        return cls(
            graph=graph,
            nodes=NodeTable.joined([graph.nodes, NodeTable.of(chosen, graph.n_layers)]),
            cut=Passage.of(whole.frame, chosen),
            whole=whole,
            chosen=chosen,
            sources=Sources.of(whole.frame, {}),
            weight=torch.cat([graph.weight, zeros.to(graph.weight)]),
            value=torch.cat([graph.value, zeros + float("nan")]),
            left_out=torch.zeros(len(graph.nodes) + len(chosen), dtype=graph.value.dtype),
        )

    def run(self, own: Int[Tensor, " target"], memory: int) -> Graph:
        """Rows of the graph's targets, then of the heads, the last layers first."""
        graph, n, node = self.graph, len(self.graph.nodes), self._columns()
        for part in chunks(self.cut.frame, len(own), memory):
            self._add(own[part], Readings.of(self.cut, graph.nodes.take(own[part])), node)
        for layer in sorted({head.layer for head in self.chosen}, reverse=True):
            here = [i for i, head in enumerate(self.chosen) if head.layer == layer]
            self._add(torch.tensor(here) + n, self._of_heads(layer, here), node)
        target, source, effect = self._found
        return replace(
            graph,
            nodes=self.nodes,
            activation=torch.cat([graph.activation, self.value[n:].to(graph.activation)]),
            weight=self.weight,
            value=self.value,
            left_out=self.left_out,
            target=target.int(),
            source=source.int(),
            effect=effect,
            gap=self.gap,
            cut=self.chosen,
        )

    @property
    def _found(self) -> tuple[Tensor, Tensor, Tensor]:
        """Targets, sources and effects of all edges so far."""
        target, source, effect = (torch.cat(part) for part in zip(*self._edges, strict=True))
        return target, source, effect

    def _columns(self) -> Int[Tensor, " column"]:
        """Which node every source, every bias and every head is; NOTHING where the graph does not have it."""
        graph = self.graph
        number = {tuple(row): i for i, row in enumerate(graph.nodes.rows.tolist())}
        table = [number.get(tuple(row), NOTHING) for row in self.sources.table.rows.tolist()]
        biases = torch.full((graph.n_layers + 1,), NOTHING)
        (own,) = graph.nodes.is_a("bias").nonzero(as_tuple=True)
        biases[graph.nodes.layer[own]] = own
        heads = len(graph.nodes) + torch.arange(len(self.chosen))
        return torch.cat([torch.tensor(table), biases, heads])

    def _add(
        self, number: Int[Tensor, " n"], reading: Readings, node: Int[Tensor, " column"]
    ) -> None:
        """The rows of some targets."""
        swept = sweep(self.cut, self.sources, reading, self.chosen)
        scores = torch.cat([swept.nodes, swept.bias, swept.heads], dim=1).cpu()
        value = reading.value.cpu()
        size = scores.abs().sum(1).clamp(min=1e-30)
        gap = float(((scores.sum(1) - value).abs() / size).max())
        check_gap("with_heads", gap, *self.whole.frame.dtypes)
        self.gap = max(self.gap, gap)
        kept = node >= 0
        inside = scores[:, kept]
        row, column = inside.nonzero(as_tuple=True)
        self._edges.append((number[row], node[kept][column], inside[row, column]))
        self._rows.append(AtHeads(number, swept.heads, swept.gradient))
        self.left_out[number] = scores[:, ~kept].sum(1)
        self.value[number] = value

    def _of_heads(self, layer: int, here: list[int]) -> Readings:
        """What the heads of a layer read of the stream before it, along the directions in which they matter."""
        weight, heads = self._weights(), self.whole.heads[layer]
        gz = heads.z.new_zeros(len(here), *heads.z.shape)
        for row, i in enumerate(here):
            at = row, self.chosen[i].pos, self.chosen[i].head
            for part in self._rows:
                signed = weight[part.number].to(part.effect) * part.effect[:, i].sign()
                gz[at] += signed @ part.gradient[:, i]
        placed, bias = Placed(len(here)), gz.new_zeros(len(here), self.graph.n_layers + 1)
        for row, vectors in enumerate(heads.pull(gz)):
            placed.put((layer, "pre"), row, None, vectors)
        bias[:, layer] = gz.flatten(1) @ heads.value_bias().flatten()
        return Readings(placed, layer, bias, gz.flatten(1) @ heads.z.flatten())

    def _weights(self) -> Float[Tensor, " node"]:
        """(influence + weight) / Σ |effect| of every target with a row so far."""
        target, source, effect = self._found
        flows = ~self.nodes.is_a("bias")[source]
        target, source, effect = target[flows], source[flows], effect[flows]
        share = shares(target, effect, len(self.nodes))
        found = influence(self.nodes.depth, target, source, share, self.weight) + self.weight
        total = torch.zeros_like(found).index_add_(0, target, effect.abs().cpu().double())
        return found / total.clamp(min=1e-30)
