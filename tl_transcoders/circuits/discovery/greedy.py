"""Growing a circuit from the logits upwards, the best edge first."""

from collections import defaultdict
from heapq import heappop, heappush

from tl_transcoders.circuits.circuit import Circuit
from tl_transcoders.circuits.nodes import Edge, Logits, Node, write_path
from tl_transcoders.circuits.reach import through_heads
from tl_transcoders.errors import ConfigError


def greedy(
    circuit: Circuit, n_edges: int, *, absolute: bool = True, heads_per_group: int | None = None
) -> Circuit:
    """The circuit that grows from the logits: time and again the best edge into what it already holds.

    Unlike `top_n`, every edge leads on to the logits; `prune` then removes what no source feeds. Of equal scores the
    first by name is taken. The result has fewer edges where no more lead to the logits.

    **Arguments:** `heads_per_group`, how many query heads share the keys and values of an `a4.kv0<k>`.

    **Raises:** ConfigError for edges without a score, a number below 1, or a group of heads of unknown size.

    Source: Hanna et al. 2024, Have Faith in Faithfulness, section 3.

    ```python
    small = greedy(attributed, 200).prune()
    ```
    """
    _check(circuit, n_edges)
    into: dict[Node, list[Edge]] = defaultdict(list)
    for edge in circuit.edges:
        into[edge[1]].append(edge)
    feeding: dict[Node, list[Node]] = defaultdict(list)
    for reader, writer in through_heads(circuit.nodes, heads_per_group):
        feeding[writer].append(reader)
    heap: list[tuple[float, str, Edge]] = []
    reached: set[Node] = set()

    def reach(node: Node) -> None:
        for reader in (node, *feeding[node]):
            if reader not in reached:
                reached.add(reader)
                for edge in into[reader]:
                    score = circuit.scores[edge]
                    heappush(heap, (-abs(score) if absolute else -score, write_path(edge), edge))

    for node in circuit.nodes:
        if isinstance(node, Logits):
            reach(node)
    taken: set[Edge] = set()
    while heap and len(taken) < n_edges:
        edge = heappop(heap)[2]
        taken.add(edge)
        reach(edge[0])
    nodes = frozenset[Node]().union(*taken)
    kept = {key: x for key, x in circuit.scores.items() if key in nodes or key in taken}
    return Circuit(nodes, taken, scores=kept)


def _check(circuit: Circuit, n_edges: int) -> None:
    unscored = circuit.edges - circuit.scores.keys()
    if unscored:
        raise ConfigError(
            "greedy",
            got=f"{len(unscored)} edges without a score, such as {write_path(min(unscored, key=write_path))}",
            expected="a score for every edge",
            do="Attribute edges first.",
        )
    if not isinstance(n_edges, int) or n_edges < 1:
        raise ConfigError(
            "n_edges", got=repr(n_edges), expected="at least 1", do="Keep at least one edge."
        )
