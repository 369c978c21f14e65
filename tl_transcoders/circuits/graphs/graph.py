"""An attribution graph."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders._types import ErrorPolicy
from tl_transcoders.circuits.graphs import graph_file, pruning
from tl_transcoders.circuits.graphs.influence import influence, shares
from tl_transcoders.circuits.graphs.nodes import GraphNode, NodeTable, write
from tl_transcoders.circuits.graphs.validate import Validation, validate
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice.trace.run import Run

if TYPE_CHECKING:
    import networkx
    import pandas


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """Direct effects between nodes of a run on one prompt, attention patterns, norm scales and gates frozen.

        value[t] = Σ_s effect[t ← s] + left_out[t]        value: the pre-activation of t

    Nodes are embeddings, active features, errors, whole MLPs where no transcoder stands, and biases, at their
    positions; outcomes are tokens, differences of tokens, or features. `gap` is the largest |Σ − value| over all rows,
    before any node was left out, in units of Σ |effect|.

    Source: Ameisen et al. 2025, Circuit Tracing, section 3.
    """

    tokens: Int[Tensor, " pos"]
    words: tuple[str, ...]
    n_layers: int
    errors: ErrorPolicy
    nodes: NodeTable
    activation: Float[Tensor, " node"]
    """Of features; 0 for others."""
    weight: Float[Tensor, " node"]
    """How much an outcome counts in influence: a token its probability, others 1; 0 for what is no outcome."""
    value: Float[Tensor, " node"]
    """The pre-activation of every target; NaN for what is none."""
    left_out: Float[Tensor, " node"]
    """What sources that are not in the graph do to every target."""
    target: Int[Tensor, " edge"]
    source: Int[Tensor, " edge"]
    effect: Float[Tensor, " edge"]
    gap: float
    run: Run | None = field(default=None, repr=False)
    """The run it was made from, which `validate` needs; not saved."""

    def __repr__(self) -> str:
        prompt = "".join(self.words)
        return f"Graph({prompt!r}: {len(self.nodes)} nodes, {len(self.effect)} edges, gap {self.gap:.1e})"

    @property
    def outcomes(self) -> tuple[GraphNode, ...]:
        """What the graph explains."""
        return tuple(self.nodes.take(self.weight > 0))

    def influence(self) -> Float[Tensor, " node"]:
        """The share of the outcomes' weight that passes through every node, by all ways together.

        Biases have none, and do not count among what flows into a node.
        """
        flows = ~self.nodes.is_a("bias")[self.source.long()]
        target, source, effect = self.target[flows], self.source[flows], self.effect[flows]
        share = shares(target, effect, len(self.nodes))
        return influence(self.nodes.layer, target, source, share, self.weight)

    @property
    def replacement_score(self) -> float:
        """influence of embeddings / (that + influence of errors and of MLPs that no transcoder replaces).

        **Raises:** ConfigError for a graph whose splice dropped the errors.
        """
        self._check_errors("replacement_score")
        found = self.influence()
        embeds = float(found[self.nodes.is_a("embed")].sum())
        errors = float(found[self._unexplained].sum())
        return embeds / (embeds + errors)

    @property
    def completeness_score(self) -> float:
        """The share of what flows into nodes that comes from no error, every node weighted by its influence.

        **Raises:** ConfigError for a graph whose splice dropped the errors.
        """
        self._check_errors("completeness_score")
        flows = ~self.nodes.is_a("bias")[self.source.long()]
        target, source = self.target[flows].long(), self.source[flows].long()
        share = shares(target, self.effect[flows], len(self.nodes))
        from_errors = share.new_zeros(len(self.nodes))
        from_errors.index_add_(0, target, share * self._unexplained[source])
        weight = self.influence() + self.weight
        return float((weight * (1 - from_errors)).sum() / weight.sum())

    def prune(self, *, node: float = 0.8, edge: float = 0.98) -> "Graph":
        """The most influential nodes and edges: as few as hold these shares of all influence.

        Embeddings and outcomes stay; features left without a way in, and features and errors without a way out, go.
        What goes is in `left_out`.
        """
        return pruning.prune(self, node=node, edge=edge)

    def top(
        self, n: int, *, target: GraphNode | None = None
    ) -> list[tuple[GraphNode, GraphNode, float]]:
        """The n strongest edges (into one target), as source, target and effect."""
        kept = torch.arange(len(self.effect))
        if target is not None:
            (kept,) = (self.target == self.nodes.find(target, self.n_layers)).nonzero(as_tuple=True)
        best = kept[self.effect[kept].abs().topk(min(n, len(kept))).indices]
        return [
            (
                self.nodes[int(self.source[i])],
                self.nodes[int(self.target[i])],
                float(self.effect[i]),
            )
            for i in best
        ]

    def validate(self, n: int = 8, *, seed: int = 0) -> Validation:
        """Remove n random nodes one at a time, everything frozen, and compare what becomes of every target with the edges.

        **Raises:** ConfigError for a graph read from a file, which has no model.
        """
        if self.run is None:
            raise ConfigError(
                "Graph.validate",
                got="a graph without its run",
                expected="a graph as attribution_graph returned it",
                do="Make the graph again: files do not hold the model.",
            )
        return validate(self, self.run, n, seed)

    def to_networkx(self) -> "networkx.DiGraph":
        """A directed graph of the nodes with attributes `text`, `activation`, `weight`, and edges with `effect`."""
        from networkx import DiGraph

        graph = DiGraph()
        nodes = list(self.nodes)
        of_node = zip(nodes, self.activation.tolist(), self.weight.tolist(), strict=True)
        for node, activation, weight in of_node:
            graph.add_node(node, text=write(node), activation=activation, weight=weight)
        for s, t, effect in self._edges():
            graph.add_edge(nodes[s], nodes[t], effect=effect)
        return graph

    def to_pandas(self) -> "tuple[pandas.DataFrame, pandas.DataFrame]":
        """Nodes `name kind layer pos activation influence value left_out` and edges `source target effect`."""
        from pandas import DataFrame

        names = [write(node) for node in self.nodes]
        columns = {
            "kind": [type(node).__name__ for node in self.nodes],
            "layer": self.nodes.layer.tolist(),
            "pos": self.nodes.pos.tolist(),
            "activation": self.activation.tolist(),
            "influence": self.influence().tolist(),
            "value": self.value.tolist(),
            "left_out": self.left_out.tolist(),
        }
        edges = [(names[s], names[t], effect) for s, t, effect in self._edges()]
        return DataFrame({"name": names, **columns}), DataFrame(
            edges, columns=["source", "target", "effect"]
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file whose header holds the rest as JSON; an interrupted write leaves nothing."""
        graph_file.write(Path(path), self)

    @classmethod
    def load(cls, path: str | Path) -> "Graph":
        """The inverse of `save`; raises TranscoderFormatError for a file that is damaged or something else."""
        return cls(**graph_file.read(Path(path)))

    @property
    def _unexplained(self) -> Bool[Tensor, " node"]:
        return self.nodes.is_a("error", "mlp")

    def _edges(self) -> "zip[tuple[int, int, float]]":
        return zip(self.source.tolist(), self.target.tolist(), self.effect.tolist(), strict=True)

    def _check_errors(self, what: str) -> None:
        if self.errors == "drop":
            raise ConfigError(
                f"Graph.{what}",
                got='a graph of a splice with error="drop", which has no errors to compare with',
                expected="a graph with errors",
                do='Splice with error="keep".',
            )
