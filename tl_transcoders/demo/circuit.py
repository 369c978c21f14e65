"""The demo's attribution graph: made, pruned, and told in two tables."""

from typing import Any

from rich.table import Table

from tl_transcoders.circuits.graphs import Bias, Graph, GraphNode, attribution_graph
from tl_transcoders.demo.data import PROMPT
from tl_transcoders.demo.loading import load_transcoders
from tl_transcoders.splice import splice

ANSWER, WRONG = "64", "14"
N_NODES, N_EDGES, N_PATHS = 8, 8, 4


def traced(model: Any) -> Graph:
    """Why the model expects a year that is late enough rather than one that is not: all of the graph."""
    with splice(model, load_transcoders("skip"), error="keep") as spliced:
        return attribution_graph(spliced, PROMPT, targets=[(ANSWER, WRONG)])


def key_nodes(graph: Graph) -> Table:
    """The features and errors through which most of the answer passes, and the strongest edges of each."""
    table = Table("node", "at", "influence", "most from", "most to", title="key nodes")
    influence = graph.influence()
    inner = graph.nodes.is_a("feature", "error")
    for i in (influence * inner).topk(min(N_NODES, int(inner.sum()))).indices.tolist():
        node = graph.nodes[i]
        into, out = graph.source[graph.target == i], graph.target[graph.source == i]
        strongest = [
            ends[graph.effect[here == i].abs().argmax()] if len(ends) else None
            for ends, here in ((into, graph.target), (out, graph.source))
        ]
        named = ["" if end is None else graph.label(graph.nodes[int(end)]) for end in strongest]
        table.add_row(graph.label(node), _word(graph, node), f"{float(influence[i]):.1%}", *named)
    return table


def strongest_edges(graph: Graph) -> Table:
    """The largest effects of its nodes on one another."""
    table = Table("from", "at", "to", "at", "effect", title="strongest edges")
    flows = graph.select(lambda node: not isinstance(node, Bias))
    for source, target, effect in flows.top(N_EDGES):
        ends = (
            cell for node in (source, target) for cell in (graph.label(node), _word(graph, node))
        )
        table.add_row(*ends, f"{effect:+.2f}")
    return table


def strongest_paths(graph: Graph) -> str:
    """The ways from the embedding with the most influence to what is explained, as lines."""
    start = graph.nodes[int((graph.influence() * graph.nodes.is_a("embed")).argmax())]
    found = graph.paths(start, graph.outcomes[0], k=N_PATHS)
    lines = (
        f"  {' → '.join(graph.label(node) for node in path.nodes)}   {path.strength:.1%}"
        for path in found
    )
    return "\n".join([f"Strongest paths from {_word(graph, start)!r}, by share:", *lines, ""])


def _word(graph: Graph, node: GraphNode) -> str:
    """The token at which a node stands."""
    return graph.words[int(graph.nodes.pos[graph.number(node)])].strip()


def summary(whole: Graph, pruned: Graph) -> str:
    """Sizes and scores."""
    return (
        f"{len(whole.nodes):,} nodes and {len(whole.effect):,} edges, pruned to {len(pruned.nodes)} and "
        f"{len(pruned.effect)}. They explain the logit of {ANSWER} less that of {WRONG}. Of what it gets from the "
        f"embeddings or from what the transcoders miss, {whole.replacement_score:.0%} comes from the embeddings (replacement score); of what flows into "
        f"nodes, {whole.completeness_score:.0%} does not come from what they miss (completeness score). "
        f"Rows sum to what their targets read up to {whole.gap:.0e}.\n"
    )
