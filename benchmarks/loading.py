"""Opening a set and computing its first features, against circuit-tracer 0.5.0 and SAELens 6.54.12 on the same files.

    make peers && python -m benchmarks.loading

A set of 30 layers, 16,384 features wide, for d 576 (2.3 GB of float32 in circuit-tracer's layout, of random
weights in a temporary folder). Each side in its own process and environment opens all 30 layers and computes
the features of layer 0 for one prompt of 16 tokens; sides take turns, medians are quoted. circuit-tracer
runs with `lazy_encoder=True, lazy_decoder=True`.

- time: from the call of the loader to the features, imports done before.
- memory: the peak of the process' resident memory above what it was after the imports. Pages of a mapped
  file count.

Nobody can do with less than one pass over the encoder of layer 0: `floor_bytes` of mapped file, and
`floor_seconds` to multiply with it once it is in memory. This package reads it block by block and unmaps every
block after use; the peers keep all of it. The files are in the page cache for everybody.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
import typer
from safetensors.torch import save_file
from tqdm import tqdm

from benchmarks.loading_side import FEATURES, N_LAYERS, SIDES, TOKENS, D

CONFIG = """\
model_name: Qwen/Qwen3-0.6B
model_kind: transcoder_set
feature_input_hook: mlp.hook_in
feature_output_hook: mlp.hook_out
"""
TRAINING_RUN = (
    f"{{d_model: {{value: {D}}}, d_feature: {{value: {FEATURES}}}, batch_size: {{value: 1}}}}"
)
PYTHON = {
    "ours": sys.executable,
    "circuit-tracer": ".peers/circuit-tracer/bin/python",
    "sae-lens": ".peers/sae-lens/bin/python",
}


def main(rounds: int = 5) -> None:
    """Print the table and one JSON line."""
    missing = [name for name, python in PYTHON.items() if not Path(python).exists()]
    if missing:
        raise SystemExit(f"no environment for {', '.join(missing)}: run `make peers` first")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    with TemporaryDirectory() as folder:
        write(Path(folder))
        for _ in range(rounds):
            for name, facts in found.items():
                facts.append(run(name, Path(folder)))
    medians = {
        name: {key: statistics.median(f[key] for f in facts) for key in facts[0]}
        for name, facts in found.items()
    }
    print(f"{'':15}{'ms':>9}{'MB':>8}{'process MB':>12}{'import s':>10}")
    for name, m in medians.items():
        megabytes = f"{m['growth'] / 1e6:8.1f}{m['process'] / 1e6:12.0f}"
        print(f"{name:15}{m['seconds'] * 1e3:9.1f}{megabytes}{m['import']:10.1f}")
    mine, peers = medians.pop("ours"), medians
    assert all(abs(m["sum"] - mine["sum"]) < 1e-4 * mine["sum"] for m in peers.values())
    result = {
        "benchmark": "loading",
        "time_ratio": round(mine["seconds"] / min(m["seconds"] for m in peers.values()), 3),
        "memory_ratio": round(mine["growth"] / min(m["growth"] for m in peers.values()), 3),
        "time_ratio_with_imports": round(waited(mine) / min(waited(m) for m in peers.values()), 3),
        "process_ratio": round(mine["process"] / min(m["process"] for m in peers.values()), 3),
        "floor_seconds": round(floor(), 4),
        "floor_bytes": 4 * D * FEATURES,
        "rounds": rounds,
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


def waited(m: dict[str, float]) -> float:
    """Seconds from the start of the imports."""
    return m["seconds"] + m["import"]


def write(folder: Path) -> None:
    """The set, as mwhanna's Qwen3 sets are published: all three read that."""
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "wandb-config.yaml").write_text(TRAINING_RUN)
    generator = torch.Generator().manual_seed(0)
    for i in tqdm(range(N_LAYERS), desc="Writing"):
        weights = {
            "W_enc": torch.randn(FEATURES, D, generator=generator) / D**0.5,
            "W_dec": torch.randn(FEATURES, D, generator=generator) / D**0.5,
            "b_enc": torch.full((FEATURES,), -2.0),
            "b_dec": torch.zeros(D),
        }
        save_file(weights, folder / f"layer_{i}.safetensors")


def run(name: str, folder: Path) -> dict[str, float]:
    """One process of one side."""
    command = [PYTHON[name], "-m", "benchmarks.loading_side", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def floor() -> float:
    """Seconds for the product with one encoder that is in memory already."""
    W_enc, x = torch.randn(FEATURES, D), torch.randn(TOKENS, D)
    seconds = []
    for _ in range(9):
        start = perf_counter()
        _ = x @ W_enc.T
        seconds.append(perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    typer.run(main)
