"""A sweep of path patching against a loop of hooked forwards that gives the same numbers.

    sweep_speedup = seconds the loop would take for all senders / seconds of the sweep: the smaller one of two receivers

SmolLM2-135M with the transcoders of `make example-smollm2` (layers 3 to 8, 4,608 features, TopK 32, errors kept;
random ones where those have not been trained) and 8 IOI pairs of 24 tokens, the first of which separates SmolLM2's documents. Senders, one at a time, are all heads,
and all features of the six layers, that come before the receiver and differ between the runs where it reads;
everything between is frozen (`edge`). Receivers:

- `logits`: what a sender writes to the logits directly;
- `a23.h3<q>`: the queries of a name mover at all positions, after which the model runs on.

The loop is `benchmarks.hooked_loop`: hooks on the same spliced model, 8 prompts in one forward. It is timed on a random
sample of senders, whose effects are compared with the sweep's; `loop_seconds` is senders · mean of the sample. Both
sides have their base and source runs beforehand and use the same threads. They take turns, and the median of the
sweeps counts. `cpu_speedup` is the same ratio in seconds of the processors, which other work on the machine changes less.

Edge attribution is timed by `benchmarks.eap`, on transformer-lens 3.9.

`python -m benchmarks.path_patching` prints one JSON line last.
"""

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any, TypeVar, get_args

import torch
import typer
from torch import Tensor
from tqdm import tqdm

import tl_transcoders as tlt
from benchmarks.hooked_loop import HookedLoop
from examples.real_models import load_bridge, smollm2
from examples.smollm2_splice import BOS, FOLDER, LAYERS
from tl_transcoders.circuits.nodes import Head, parse_node
from tl_transcoders.circuits.patching import ActiveFeatures, AllHeads, SweepResult, sweep
from tl_transcoders.circuits.tasks import ioi
from tl_transcoders.circuits.tasks.ioi import Corruption
from tl_transcoders.splice.trace.run import Run, capture

T = TypeVar("T")
RECEIVERS = ("logits", "a23.h3<q>")
OPENING = "Then, as far as anyone can remember,"
ROOT = Path(__file__).parents[1]
FAMILIES = (AllHeads(), ActiveFeatures())


def main(
    sampled: Annotated[int, typer.Option(help="senders the loop is timed on")] = 40,
    rounds: Annotated[int, typer.Option(help="turns, of one sweep and a part of the loop")] = 5,
    corruption: Annotated[str, typer.Option(help="swap or names")] = "swap",
    receivers: Annotated[str, typer.Option(help="receivers, with spaces between")] = " ".join(
        RECEIVERS
    ),
) -> None:
    """Measure and print."""
    torch.set_grad_enabled(False)
    assert corruption in get_args(Corruption)
    model: Any = load_bridge(smollm2())
    task = ioi(model.tokenizer, n=8, prepend_bos=False, corruption=corruption)
    base, source = opened(model, task.base), opened(model, task.source)
    facts: dict[str, Any] = {"tokens": base.shape[1], "batch": len(base), "corruption": corruption}
    trained = (FOLDER / "transcoders").is_dir()
    transcoders = tlt.load(FOLDER / "transcoders") if trained else random_transcoders()
    with tlt.splice(model, transcoders, error="keep", exclude=[BOS]) as spliced:
        runs = capture(spliced, base), capture(spliced, source)
        loop = HookedLoop(model, base, source, task.metric, spliced.layers)
        found = {
            receiver: compare(loop, runs, receiver, sampled, rounds)
            for receiver in receivers.split()
        }
    edges = on_3_9("benchmarks.eap", "--rounds", str(rounds))
    result = {
        "benchmark": "path_patching",
        "sweep_speedup": min(f["speedup"] for f in found.values()),
        "max_abs_diff": max(f["max_abs_diff"] for f in found.values()),
        "edge_speedup": edges["edge_speedup"],
        "receivers": found,
        "edges": edges,
        **facts,
        "transcoders": "trained" if trained else "random",
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


def on_3_9(module: str, *arguments: str) -> dict[str, Any]:
    """What another benchmark prints on transformer-lens 3.9, whose HookedTransformer has the hooks it needs."""
    overlay = f"{ROOT / '.tl3'}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": overlay},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def random_transcoders() -> tlt.TranscoderSet:
    """As the trained ones, but for their weights."""
    cfg: dict[str, Any] = {"d_in": 576, "d_out": 576, "n_features": 4608, "skip": True}
    return tlt.TranscoderSet(
        {
            layer: tlt.Transcoder.init(
                tlt.TranscoderConfig(layer=layer, activation=tlt.TopK(32), **cfg), seed=layer
            ).requires_grad_(False)
            for layer in LAYERS
        }
    )


def opened(model: Any, prompts: Tensor) -> Tensor:
    """The prompts behind the token between documents and a few words."""
    opening = model.to_tokens(OPENING, prepend_bos=False)[0].tolist()
    return torch.cat([torch.tensor([[BOS, *opening]]).expand(len(prompts), -1), prompts], dim=1)


def compare(
    loop: HookedLoop, runs: tuple[Run, Run], receiver: str, sampled: int, rounds: int
) -> dict[str, float]:
    """Both sides with one receiver, in turns."""
    node = parse_node(receiver)

    def once() -> SweepResult:
        asked: dict[str, Any] = {"receivers": [node], "metric": loop.metric}
        return sweep(runs[0].spliced, *runs, senders=FAMILIES, **asked)

    swept = once()
    senders = random.Random(0).sample(range(len(swept.nodes)), min(sampled, len(swept.nodes)))
    sweeps, forwards, gaps = [], [], []
    for turn in tqdm(range(rounds), desc=receiver):
        sweeps.append(timed(once)[0])
        for i in senders[turn::rounds]:
            seconds, effect = timed(lambda i=i: loop.effect(swept.nodes[i], node))
            forwards.append(seconds)
            gaps.append(float((effect - swept.effects[i]).abs().max()))
    mine, mine_cpu = (statistics.median(t) for t in zip(*sweeps, strict=True))
    each, each_cpu = (statistics.mean(t) for t in zip(*forwards, strict=True))
    n = len(swept.nodes)
    return {
        "speedup": round(n * each / mine, 1),
        "cpu_speedup": round(n * each_cpu / mine_cpu, 1),
        "max_abs_diff": max(gaps),
        "largest_effect": float(swept.effects.abs().max()),
        "senders": n,
        "heads": sum(isinstance(sender, Head) for sender in swept.nodes),
        "sampled": len(forwards),
        "loop_seconds_per_sender": round(each, 3),
        "loop_seconds": round(n * each, 1),
        "sweep_seconds": round(mine, 3),
    }


def timed(action: Callable[[], T]) -> tuple[tuple[float, float], T]:
    """What an action returns, after its seconds by the clock and of the processors."""
    clock, cpu = perf_counter(), process_time()
    result = action()
    return (perf_counter() - clock, process_time() - cpu), result


if __name__ == "__main__":
    typer.run(main)
