"""An attribution graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders._types import ErrorPolicy
from tl_transcoders.circuits.graphs import graph_file, page, peer_file, pruning
from tl_transcoders.circuits.graphs.influence import influence, shares, total_effects
from tl_transcoders.circuits.graphs.no_run import NoRun, check_run
from tl_transcoders.circuits.graphs.nodes import Difference, GraphNode, NodeTable, Token, write
from tl_transcoders.circuits.graphs.path_length import path_length
from tl_transcoders.circuits.graphs.paths import By, GraphPath, strongest_paths
from tl_transcoders.circuits.graphs.pruning import subgraph
from tl_transcoders.circuits.graphs.scores import Scores, scores, subgraph_scores
from tl_transcoders.circuits.graphs.select import Selection, select
from tl_transcoders.circuits.graphs.similar import similar_features
from tl_transcoders.circuits.graphs.super_graph import SuperGraph
from tl_transcoders.circuits.graphs.validate import Validation, validate
from tl_transcoders.circuits.nodes import Head
from tl_transcoders.circuits.sizes import check_sizes
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
    vocabulary: Mapping[int, str]
    """The text of the tokens that are outcomes."""
    n_layers: int
    errors: ErrorPolicy
    nodes: NodeTable
    activation: Float[Tensor, " node"]
    """Of features; of heads, once `with_heads` made them nodes, their value; 0 for others."""
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
    """The run it was made from, which `validate` needs; not saved, and given up by `without_run`."""
    cut: tuple[Head, ...] = field(default=(), repr=False)
    """The heads that `with_heads` made nodes, also those that were pruned: edges pass through none of them."""
    no_run: NoRun = field(default="given up", repr=False)
    """Why there is no run, where there is none: linear MLPs, a file, or it was given up."""

    def __repr__(self) -> str:
        prompt = "".join(self.words)
        return f"Graph({prompt!r}: {len(self.nodes)} nodes, {len(self.effect)} edges, gap {self.gap:.1e})"

    @property
    def outcomes(self) -> tuple[GraphNode, ...]:
        """What the graph explains."""
        return tuple(self.nodes.take(self.weight > 0))

    def label(self, node: GraphNode | str) -> str:
        """What to call a node in a table: an outcome by its words, others as they are written."""
        match self.nodes[self.number(node)] if isinstance(node, str) else node:
            case Token(token):
                return repr(self.vocabulary.get(token, str(token)))
            case Difference(good, bad):
                return " − ".join(repr(self.vocabulary.get(i, str(i))) for i in (good, bad))
            case _:
                return node if isinstance(node, str) else write(node)

    def influence(self) -> Float[Tensor, " node"]:
        """The share of the outcomes' weight that passes through every node, by all ways together.

        Biases have none, and do not count among what flows into a node.
        """
        flows = ~self.nodes.is_a("bias")[self.source.long()]
        target, source, effect = self.target[flows], self.source[flows], self.effect[flows]
        share = shares(target, effect, len(self.nodes))
        return influence(self.nodes.depth, target, source, share, self.weight)

    def total_effects(self) -> Float[Tensor, "node outcome"]:
        """What every node does to every outcome over all paths together, active features passing on what they get.

        In units of the outcome's pre-activation; 0 for the outcomes themselves unless they are features with effects
        on others. `paths(by="effect")` are its summands.
        """
        (outcomes,) = (self.weight > 0).nonzero(as_tuple=True)
        ends = self.nodes.depth, self.target, self.source
        return total_effects(*ends, self.effect, self.activation, outcomes)

    @property
    def replacement_score(self) -> float:
        """influence of embeddings / (that + influence of errors and of MLPs that no transcoder replaces).

        **Raises:** ConfigError for a graph whose splice dropped the errors.
        """
        return scores(self).replacement

    @property
    def completeness_score(self) -> float:
        """The share of what flows into nodes that comes from no error, every node weighted by its influence.

        **Raises:** ConfigError for a graph whose splice dropped the errors.
        """
        return scores(self).completeness

    @property
    def path_length(self) -> float:
        """The mean number of edges of the ways from embeddings to outcomes, weighted by their share of influence."""
        return path_length(self)

    def subgraph_scores(self, kept: "Selection | Graph") -> Scores:
        """Both scores had the transcoders only the features of a subgraph: others count as errors.

        What a feature that is not kept writes is added to the error of its layer and position. All errors, MLPs and
        embeddings take part. Ask the whole graph: `graph.subgraph_scores(graph.prune())`.

        **Raises:** ConfigError for a graph whose splice dropped the errors, or nodes that are not in the graph.
        """
        selection = kept.nodes if isinstance(kept, Graph) else kept
        return subgraph_scores(self, select(self, selection))

    def select(self, selection: Selection) -> "Graph":
        """The subgraph of some nodes; what others do to these is in `left_out`. Keep outcomes: influence starts at them.

        **Arguments:** `selection`: nodes, those without a position at all of them; or a function of a node.

        **Raises:** ConfigError for a node that is not in the graph.

        ```python
        graph.select([*graph.outcomes, Embed(), Feature(3, 7)])
        ```
        """
        kept = select(self, selection)
        return subgraph(self, kept, kept[self.target.long()] & kept[self.source.long()])

    def number(self, node: GraphNode | str) -> int:
        """Where a node stands among `nodes`; raises ConfigError where it is none of them."""
        return self.nodes.find(node, self.n_layers, len(self.tokens))

    def prune(self, *, node: float = 0.8, edge: float = 0.98) -> "Graph":
        """The most influential nodes and edges: as few as hold these shares of all influence.

        Embeddings and outcomes stay; features and heads left without a way in go, and features, heads, errors and MLPs
        without a way out.
        What goes is in `left_out`. So node=1 and edge=1 take away what leads nowhere, and nothing else.

        Source: Ameisen et al. 2025, Circuit Tracing, appendix; the sets are those of circuit-tracer 0.5.0.
        """
        return pruning.prune(self, node=node, edge=edge)

    def top(
        self, n: int, *, target: GraphNode | str | None = None
    ) -> list[tuple[GraphNode, GraphNode, float]]:
        """The n strongest edges (into one target), as source, target and effect.

        **Raises:** ConfigError for n below 1, or a target that is not in the graph.
        """
        check_sizes("Graph.top", n=n)
        kept = torch.arange(len(self.effect))
        if target is not None:
            (kept,) = (self.target == self.number(target)).nonzero(as_tuple=True)
        best = kept[self.effect[kept].abs().topk(min(n, len(kept))).indices]
        return [
            (
                self.nodes[int(self.source[i])],
                self.nodes[int(self.target[i])],
                float(self.effect[i]),
            )
            for i in best
        ]

    def paths(
        self, source: GraphNode | str, target: GraphNode | str, *, k: int = 5, by: By = "share"
    ) -> list[GraphPath]:
        """The k strongest paths from one node to another, strongest first; fewer where there are fewer. Exact.

            by="share"     Π |effect[t ← s]| / Σ_s |effect[t ← s]|      all paths together: how much of t comes from s
            by="effect"    effect[t₁ ← source] · Π effect[t ← s] / activation[s]

        An effect along a path is what the source does to the pre-activation of the target over it, active features
        passing on what they get; those of all paths, signs kept, sum to the whole. The strongest are those with the
        largest |effect|. Over biases there is no path by share.

        **Raises:** ConfigError for a node that is not in the graph.

        ```python
        graph.paths(Embed(8), graph.outcomes[0], k=3)
        ```
        """
        check_sizes("Graph.paths", k=k)
        return strongest_paths(self, self.number(source), self.number(target), k=k, by=by)

    def group(self, groups: "Mapping[str, Selection]") -> SuperGraph:
        """Supernodes: groups of nodes by name, their edges summed; a node in none stays one by itself.

        **Raises:** ConfigError for a group without nodes, two that share one, or a node that is not in the graph.

        ```python
        graph.group({"42": [Embed(8)], "late years": [Feature(3, 402), Feature(3, 149)]}).top(5)
        ```
        """
        return SuperGraph.of(self, groups)

    def similar(self, least: float = 0.5) -> dict[str, list[GraphNode]]:
        """Groups of features that are wired alike, for `group`; features like no other are in none.

            similarity = ½ cos(effects into a, effects into b) + ½ cos(effects of a, effects of b)

        Groups are joined by average linkage, the most similar first, as long as their mean similarity is `least`.

        **Raises:** ConfigError for more than 3,000 features: prune first.
        """
        return similar_features(self, least)

    def validate(self, n: int = 8, *, seed: int = 0) -> Validation:
        """Remove n random nodes one at a time, and compare what becomes of targets with what the graph says.

        With everything frozen every target must change by −effect: `gap`. With the model free to react, the outcomes
        change as far as the graph is a fair account: `rank_correlation`, `influence_correlation`.

        **Raises:** ConfigError for a graph without its run (read from a file, with linear MLPs), or n below 1.
        """
        check_sizes("Graph.validate", n=n)
        return validate(self, self.run_for("Graph.validate"), n, seed)

    def run_for(self, what: str) -> Run:
        """The run, for something that needs it; raises ConfigError that says why where the graph has none."""
        return check_run(what, self.run, self.no_run)

    def without_run(self) -> "Graph":
        """The same without the run, whose tensors `[pos ...]` of every layer and logits stay in memory with the graph.

        Everything but `validate` and attention's functions works as before. The graphs it was taken from keep the run.
        """
        return self if self.run is None else replace(self, run=None, no_run="given up")

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

    @classmethod
    def from_circuit_tracer(
        cls, path: str | Path, *, words: Sequence[str] | None = None
    ) -> "Graph":
        """A `.pt` file of circuit-tracer 0.5.0; nothing in it is run.

        It has no biases and no pre-activations: the value of a feature is its activation, that of a token the sum of its
        row, and what biases do is in `left_out` of features. `gap` is NaN: nobody can check the rows.

        **Arguments:** `words`: the text of every token, which the file does not hold; its ids otherwise.

        **Raises:** TranscoderFormatError for a file that is damaged, something else, or holds more than data.
        """
        return cls(**peer_file.read_peer_graph(Path(path), words))

    def save_html(self, path: str | Path, *, max_edges: int = 2000) -> None:
        """Write one static page: layers by tokens, nodes as dots, the `max_edges` strongest edges between them.

        Nothing is fetched and nothing runs in it. Blue edges raise their target, red ones lower it; their width is
        |effect|. Biases are left out. Prune first: a page of all edges of a model is of no use.

        ```python
        graph.prune().save_html("graph.html")
        ```
        """
        page.write_page(Path(path), self, max_edges)

    def _edges(self) -> "zip[tuple[int, int, float]]":
        return zip(self.source.tolist(), self.target.tolist(), self.effect.tolist(), strict=True)
