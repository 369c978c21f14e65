"""How long the attribution graph of a short prompt takes.

SmolLM2-135M, all 30 MLPs replaced by TopK-16 transcoders of 4,096 features (random weights), an 11-token prompt whose
first token is left out, so that 30 · 10 · 16 = 4,800 features are active, all of them targets. `seconds` is from the
prompt to the graph, `sweeps` the part of it that the transposed pass takes, both the least of some rounds; `rss` is
what the process holds at most beyond what it held before, in megabytes.

`python -m benchmarks.attribution_graph` prints one JSON line last.
"""

import json
import resource
from time import perf_counter, process_time
from typing import Annotated, Any

import torch
import typer

import tl_transcoders as tlt
from examples.real_models import load_bridge, smollm2

N_FEATURES, K, LENGTH = 4096, 16, 11


def main(
    rounds: Annotated[int, typer.Option(help="how often to make the graph")] = 3,
    length: Annotated[int, typer.Option(help="tokens of the prompt")] = LENGTH,
    max_features: Annotated[int, typer.Option(help="feature budget; 0 for all")] = 0,
    threads: Annotated[int, typer.Option(help="threads of torch")] = 2,
) -> None:
    """Measure and print."""
    torch.set_num_threads(threads)
    model: Any = load_bridge(smollm2())
    transcoders = random_transcoders(model.cfg.n_layers, model.cfg.d_model)
    tokens = torch.randint(0, 40_000, (1, length), generator=torch.Generator().manual_seed(0))
    first = torch.zeros(1, length, dtype=torch.bool)
    first[0, 0] = True
    budget = max_features or None
    before = resident()
    with tlt.splice(model, transcoders, error="keep", exclude=first) as spliced:
        seconds, cpu = [], []
        for _ in range(rounds):
            start, start_cpu = perf_counter(), process_time()
            graph = tlt.attribution_graph(spliced, tokens, max_features=budget)
            seconds.append(perf_counter() - start)
            cpu.append(process_time() - start_cpu)
    targets = int((~graph.value.isnan()).sum())
    print(
        json.dumps(
            {
                "seconds": round(min(seconds), 2),
                "cpu_seconds": round(min(cpu), 2),
                "targets": targets,
                "edges": len(graph.effect),
                "gap": graph.gap,
                "rss": round(resident() - before),
                "threads": torch.get_num_threads(),
            }
        )
    )


def random_transcoders(n_layers: int, d_model: int) -> tlt.TranscoderSet:
    """TopK-16 transcoders of 4,096 features for every layer."""
    made = {}
    for layer in range(n_layers):
        cfg = tlt.TranscoderConfig(
            layer=layer, d_in=d_model, d_out=d_model, n_features=N_FEATURES, activation=tlt.TopK(K)
        )
        made[layer] = tlt.Transcoder.init(cfg, seed=layer).requires_grad_(False)
    return tlt.TranscoderSet(made)


def resident() -> float:
    """The most memory this process has held so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
