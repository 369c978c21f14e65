"""An attribution graph of SmolLM2: circuit-tracer 0.5.0 and ours on the same weights, prompt and transcoders.

All 30 MLPs have TopK-16 transcoders of 4,096 features (random weights); the prompt has 11 tokens, of which the first
is left out on both sides, so that 30 · 10 · 16 = 4,800 features are active and all of them are targets, and once more
with a budget of 1,000. The peer runs in `.peers/circuit-tracer` in a process with as many threads, at the fastest of
some batch sizes; rounds take turns. Seconds are from the prompt to the graph, `rss` the most memory held meanwhile
beyond what was held before, in megabytes.

Rows are compared entry by entry, sources and targets that both know: the peer zeroes errors at the first position (ours
are whole MLPs there, which it leaves out) and has no bias nodes. `max_rel_diff` is in units of the largest entry.

`python -m benchmarks.attribution_graph` prints one JSON line last; with `--rounds 0` it measures ours alone, for
instance `--rounds 0 --length 256 --max-features 5000`.
"""

import json
import os
import statistics
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

import tl_transcoders as tlt
from benchmarks.memory import Peak
from benchmarks.training import Side
from examples.real_models import load_bridge, smollm2
from tl_transcoders.circuits import Embed
from tl_transcoders.circuits.graphs import Token

N_FEATURES, K, LENGTH, BUDGET = 4096, 16, 11, 1000
PEER_PYTHON = Path(".peers/circuit-tracer/bin/python")
BATCH_SIZES = [64, 128, 256, 512]


def main(
    rounds: Annotated[int, typer.Option(help="interleaved rounds; 0 leaves out the peer")] = 3,
    length: Annotated[int, typer.Option(help="tokens of the prompt")] = LENGTH,
    max_features: Annotated[int, typer.Option(help="budget without the peer; 0 for all")] = 0,
    threads: Annotated[int, typer.Option(help="threads of torch on both sides")] = 2,
    batch_size: Annotated[
        list[int], typer.Option(help="those the peer is tried with")
    ] = BATCH_SIZES,
) -> None:
    """Measure and print."""
    torch.set_num_threads(threads)
    model: Any = load_bridge(smollm2())
    transcoders = random_transcoders(model.cfg.n_layers, model.cfg.d_model)
    tokens = prompt(length)
    first = torch.zeros(1, length, dtype=torch.bool)
    first[0, 0] = True
    with tlt.splice(model, transcoders, error="keep", exclude=first) as spliced:
        ours = Ours(spliced, tokens)
        if rounds:
            found = against_the_peer(ours, transcoders, rounds, threads, batch_size)
        else:
            found = alone(ours, max_features or None)
    load = os.getloadavg()[0]
    facts = {"length": length, "threads": threads, "load_average": round(load, 1)}
    print(json.dumps({"benchmark": "attribution_graph", **found, **facts}))


class Ours:
    """Our side."""

    def __init__(self, spliced: tlt.Spliced, tokens: Tensor) -> None:
        self.spliced, self.tokens = spliced, tokens

    def run(self, max_features: int | None) -> tuple[dict[str, float], tlt.Graph]:
        """A graph, its seconds and its memory."""
        with Peak() as peak:
            start, start_cpu = perf_counter(), process_time()
            graph = tlt.attribution_graph(self.spliced, self.tokens, max_features=max_features)
            seconds, cpu = perf_counter() - start, process_time() - start_cpu
        return {"seconds": seconds, "cpu_seconds": cpu, "peak": peak.megabytes}, graph


def alone(ours: Ours, max_features: int | None) -> dict[str, Any]:
    """What ours takes."""
    found, graph = ours.run(max_features)
    return {
        **{name: round(value, 2) for name, value in found.items()},
        "targets": int((~graph.value.isnan()).sum()),
        "edges": len(graph.effect),
        "gap": graph.gap,
    }


def against_the_peer(
    ours: Ours,
    transcoders: tlt.TranscoderSet,
    rounds: int,
    threads: int,
    batch_sizes: list[int],
) -> dict[str, Any]:
    """Both, in turns."""
    if not PEER_PYTHON.exists():
        raise SystemExit("no .peers/circuit-tracer: run `make peers` first")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hand_over(transcoders, folder, threads)
        command = [str(PEER_PYTHON), "-m", "benchmarks.attribution_graph_peer", name]
        peer = Side(command, threads)
        order = {"tokens": ours.tokens[0].tolist(), "file": ""}
        found: dict[str, Any] = {}
        for budget, suffix in ((None, ""), (BUDGET, f"_{BUDGET}")):
            asked = {**order, "max_features": budget}
            size, tried = fastest(peer, asked, batch_sizes)
            measured = in_turns(peer, ours, {**asked, "batch_size": size}, rounds, folder)
            found |= {f"{k}{suffix}": v for k, v in {**measured, "batch_size": size}.items()}
            found |= {f"batch_sizes{suffix}": tried}
        peer.close()
    return found


def fastest(
    peer: Side, order: dict[str, Any], batch_sizes: list[int]
) -> tuple[int, dict[str, float]]:
    """The batch size at which the peer is fastest, and its seconds at every one."""
    if len(batch_sizes) == 1:
        return batch_sizes[0], {}
    tried = {size: peer.ask({**order, "batch_size": size})["seconds"] for size in batch_sizes}
    print(tried, flush=True)
    best = min(tried, key=lambda size: tried[size])
    return best, {str(size): round(seconds, 1) for size, seconds in tried.items()}


def in_turns(
    peer: Side, ours: Ours, order: dict[str, Any], rounds: int, folder: Path
) -> dict[str, Any]:
    """Ratios of some rounds, and how far the rows of the last are apart."""
    file = folder / "graph.safetensors"
    sides: dict[str, list[dict[str, float]]] = {"peer": [], "ours": []}
    for _ in range(rounds):
        sides["peer"].append(peer.ask({**order, "file": str(file)}))
        measured, graph = ours.run(order["max_features"])
        sides["ours"].append(measured)
        print(sides["peer"][-1], measured, flush=True)
    return {**compared(graph, file), **ratios(sides)}


def ratios(sides: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over rounds, and how they compare."""
    median = {
        side: {name: statistics.median(r[name] for r in runs) for name in runs[0]}
        for side, runs in sides.items()
    }
    return {
        "speedup": round(median["peer"]["seconds"] / median["ours"]["seconds"], 2),
        "cpu_speedup": round(median["peer"]["cpu_seconds"] / median["ours"]["cpu_seconds"], 2),
        "rss_ratio": round(median["ours"]["peak"] / median["peer"]["peak"], 3),
        "seconds": {side: round(m["seconds"], 2) for side, m in median.items()},
        "rss": {side: round(m["peak"]) for side, m in median.items()},
    }


def compared(graph: tlt.Graph, file: Path) -> dict[str, Any]:
    """The largest difference of entries that both have."""
    peer = load_file(file)
    adjacency, tokens = peer["adjacency"], peer["tokens"].tolist()
    last, n_pos = len(graph.tokens) - 1, len(graph.tokens)
    features = [tlt.Feature(layer, i, pos) for layer, pos, i in peer["features"].tolist()]
    errors = [tlt.Error(layer, pos) for layer in range(graph.n_layers) for pos in range(n_pos)]
    names = [*features, *errors, *map(Embed, range(n_pos)), *(Token(t, last) for t in tokens)]
    number = {node: i for i, node in enumerate(graph.nodes)}
    place = torch.tensor([number.get(node, -1) for node in names])
    known = place >= 0
    ours = torch.zeros(len(graph.nodes), len(graph.nodes))
    ours[graph.target.long(), graph.source.long()] = graph.effect.float()
    ours = ours[place[known]][:, place[known]]
    theirs = adjacency[known][:, known]
    targets = ours.abs().sum(1) > 0
    largest = float(theirs.abs().max())
    return {
        "max_rel_diff": float((ours - theirs)[targets].abs().max()) / largest,
        "targets": int(targets.sum()),
        "targets_of_the_peer_alone": int(((theirs.abs().sum(1) > 0) & ~targets).sum()),
        "features_of_both": int(known[: len(features)].sum()),
    }


def hand_over(transcoders: tlt.TranscoderSet, folder: Path, threads: int) -> None:
    """The transcoders in the peer's layout."""
    for layer, coder in transcoders.items():
        weights = {
            "W_enc": coder.W_enc.T.contiguous(),
            "W_dec": coder.W_dec.contiguous(),
            "b_enc": coder.b_enc.contiguous(),
            "b_dec": coder.b_dec.contiguous(),
        }
        save_file(weights, folder / f"layer_{layer}.safetensors")
    facts = {"model": str(smollm2()), "k": K, "threads": threads}
    (folder / "facts.json").write_text(json.dumps(facts))


def random_transcoders(n_layers: int, d_model: int) -> tlt.TranscoderSet:
    """TopK-16 transcoders of 4,096 features for every layer."""
    made = {}
    for layer in range(n_layers):
        cfg = tlt.TranscoderConfig(
            layer=layer, d_in=d_model, d_out=d_model, n_features=N_FEATURES, activation=tlt.TopK(K)
        )
        made[layer] = tlt.Transcoder.init(cfg, seed=layer).requires_grad_(False)
    return tlt.TranscoderSet(made)


def prompt(length: int) -> Tensor:
    """Random tokens behind the one that begins texts, which the peer asks for."""
    tokens = torch.randint(100, 40_000, (1, length), generator=torch.Generator().manual_seed(0))
    tokens[0, 0] = 1
    return tokens


if __name__ == "__main__":
    typer.run(main)
