"""What attribution found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.circuit import Circuit
from tl_transcoders.circuits.nodes import Edge, Head, Node


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEffects:
    """`effects[node, batch]` of `nodes`, in order."""

    nodes: tuple[Node, ...]
    effects: Float[Tensor, "node batch"]

    @property
    def heads(self) -> Float[Tensor, "layer head batch"]:
        """Effects of what heads write, summed over positions."""
        found = [
            (node.layer, node.head, i)
            for i, node in enumerate(self.nodes)
            if isinstance(node, Head) and node.reader is None
        ]
        if not found:
            return self.effects.new_zeros(0, 0, self.effects.shape[1])
        layers, heads, rows = (torch.tensor(part) for part in zip(*found, strict=True))
        shape = (int(layers.max()) + 1, int(heads.max()) + 1, self.effects.shape[1])
        grid = self.effects.new_zeros(shape)
        return grid.index_put((layers, heads), self.effects[rows], accumulate=True)

    def where(self, keep: Callable[[Node], bool]) -> "NodeEffects":
        """Those of which `keep` is true."""
        kept = [i for i, node in enumerate(self.nodes) if keep(node)]
        nodes = tuple(self.nodes[i] for i in kept)
        return NodeEffects(nodes=nodes, effects=self.effects[kept])

    def top(self, n: int = 10) -> list[tuple[Node, float]]:
        """The n nodes of largest mean effect by size, with it."""
        means = self.effects.mean(1)
        order = means.abs().topk(max(0, min(n, len(means)))).indices.tolist()
        return [(self.nodes[i], float(means[i])) for i in order]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeEffects:
    """`effects[edge]`, the mean over prompts, from `nodes[sender[edge]]` to `nodes[receiver[edge]]`, largest first.

    `total` is the sum of the sizes of all edges, also of those that were not kept.
    """

    nodes: tuple[Node, ...]
    sender: Int[Tensor, " edge"]
    receiver: Int[Tensor, " edge"]
    effects: Float[Tensor, " edge"]
    total: float

    def __len__(self) -> int:
        """Number of edges kept."""
        return len(self.effects)

    @property
    def kept(self) -> float:
        """The share of the sizes of all edges that is kept."""
        return float(self.effects.abs().sum()) / self.total if self.total else 1.0

    def top(self, n: int = 10) -> list[tuple[Edge, float]]:
        """The n edges of largest effect by size, with it."""
        n = max(0, n)
        senders, receivers = self.sender[:n].tolist(), self.receiver[:n].tolist()
        pairs = zip(senders, receivers, self.effects[:n].tolist(), strict=True)
        return [((self.nodes[s], self.nodes[r]), effect) for s, r, effect in pairs]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """First-order effects of nodes, and of edges where asked for, with the metric of the two runs.

    `gap[batch]` is what the effects of the inputs (embedding, and errors that are kept) sum to, less
    source − base; over activations, the worst of the same for one layer's heads or MLP. 0 would be complete.
    """

    nodes: NodeEffects
    edges: EdgeEffects
    base: Float[Tensor, " batch"]
    source: Float[Tensor, " batch"]
    gap: Float[Tensor, " batch"]

    def circuit(self, *, nodes: int | None = None, edges: int | None = None) -> Circuit:
        """The nodes and edges of largest mean effect, with it; with edges, only their ends are nodes.

        Unlimited, all nodes that have an effect, or all edges that were kept.
        """
        best = self.nodes.top(len(self.nodes.nodes) if nodes is None else nodes)
        means: dict[Node | Edge, float] = {node: effect for node, effect in best if effect}
        chosen = dict(self.edges.top(len(self.edges) if edges is None else edges))
        if not chosen:
            return Circuit((node for node, effect in best if effect), scores=means)
        ends = {node for edge in chosen for node in edge}
        scores = {node: means[node] for node in ends & means.keys()}
        return Circuit(ends, chosen, scores={**scores, **chosen})
