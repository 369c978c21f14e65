"""How long pruning a large graph takes, and how much memory.

A synthetic graph of 60,000 nodes: 26 layers of 2,300 features, and edges drawn at random from lower layers, sizes
log-normal. A dense matrix of nodes by nodes would take 14 GB. `seconds` and `cpu_seconds` are for graph.prune(),
`peak` is the most the whole process held, making the graph included, in megabytes.

`python -m benchmarks.graph_pruning` prints one JSON line last.
"""

import json
import resource
from time import perf_counter, process_time
from typing import Annotated

import torch
import typer

from tl_transcoders.circuits.graphs import Graph, Token
from tl_transcoders.circuits.graphs.nodes import KINDS, NodeTable
from tl_transcoders.circuits.nodes import Embed, Error

N_LAYERS, N_POS = 26, 64


def main(
    nodes: Annotated[int, typer.Option(help="how many")] = 60_000,
    edges: Annotated[int, typer.Option(help="how many into every feature, on average")] = 400,
) -> None:
    """Measure and print."""
    graph = synthetic(nodes, edges)
    start, start_cpu = perf_counter(), process_time()
    pruned = graph.prune()
    seconds, cpu = perf_counter() - start, process_time() - start_cpu
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu, 2),
                "nodes": len(graph.nodes),
                "edges": len(graph.effect),
                "kept_nodes": len(pruned.nodes),
                "kept_edges": len(pruned.effect),
                "peak": round(peak()),
                "threads": torch.get_num_threads(),
            }
        )
    )


def synthetic(n_nodes: int, per_feature: int) -> Graph:
    """A random graph with the layers and kinds of a real one."""
    generator = torch.Generator().manual_seed(0)
    plain = NodeTable.of(
        [
            *map(Embed, range(N_POS)),
            *(Error(layer, pos) for layer in range(N_LAYERS) for pos in range(N_POS)),
        ],
        N_LAYERS,
    )
    outcomes = NodeTable.of([Token(i, N_POS - 1) for i in range(10)], N_LAYERS)
    n = n_nodes - len(plain) - len(outcomes)
    layer = torch.arange(n) * N_LAYERS // n
    pos = torch.randint(0, N_POS, (n,), generator=generator)
    kind = torch.full_like(layer, KINDS.index("feature"))
    features = torch.stack([kind, layer, pos, torch.arange(n), torch.zeros_like(layer)], 1)
    table = NodeTable.joined([plain, NodeTable(features), outcomes])
    target, source = _edges(table, per_feature, generator)
    effect = torch.randn(len(target), generator=generator)
    effect *= torch.randn(len(target), generator=generator).mul_(1.5).exp_()
    value = torch.full((len(table),), float("nan"))
    value[len(plain) :] = 0
    weight = torch.zeros(len(table), dtype=torch.float64)
    weight[-len(outcomes) :] = 0.1
    return Graph(
        tokens=torch.arange(N_POS),
        words=tuple(map(str, range(N_POS))),
        vocabulary={i: str(i) for i in range(10)},
        n_layers=N_LAYERS,
        errors="keep",
        nodes=table,
        activation=table.is_a("feature").float(),
        weight=weight,
        value=value,
        left_out=torch.zeros(len(table)),
        target=target.int(),
        source=source.int(),
        effect=effect,
        gap=0.0,
    )


def _edges(
    table: NodeTable, per_feature: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Into every feature and outcome, from embeddings and from whatever stands in a lower layer."""
    (targets,) = table.is_a("feature", "token").nonzero(as_tuple=True)
    target = targets.repeat_interleave(per_feature)
    order = torch.where(table.is_a("embed"), -1, table.layer).argsort(stable=True)
    layers = table.layer[order].clone()
    layers[:N_POS] = -1
    below = torch.searchsorted(layers, table.layer[target])
    share = torch.rand(len(target), generator=generator, dtype=torch.float64)
    return target, order[(share * below).long()]


def peak() -> float:
    """The most memory this process has held so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
