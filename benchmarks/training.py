"""One training step against eai-sparsify's own: TopK-32, d 576, 4,608 features, batch 2,048.

    make peers && python -m benchmarks.training

Three processes with the same number of threads, of which one runs at a time, take turns in blocks of steps:

- ours: `tl_transcoders.training.Trainer` as `train` uses it;
- peer: eai-sparsify 1.3.3's SparseCoder with its Trainer's step, in `.peers/sparsify`;
- raw: ours with `data_units=False`, which is the peer's recipe, so its FVU must be the peer's.

All begin at the same encoder and see the same batches; optimiser (fused Adam), lr and schedule are the same.
The FVUs are on fresh batches after the last step; `floor` is the share of the variance that is noise.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import typer

from benchmarks.training_task import BATCH, NOISE

PEER_PYTHON = Path(".peers/sparsify/bin/python")


class Side:
    """A process that steps when it is told to."""

    def __init__(self, command: list[str], threads: int) -> None:
        environment = {
            **os.environ,
            "SPARSIFY_DISABLE_TRITON": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts = self._answer()
        self.seconds: list[float] = []
        self.curve: list[float] = []

    def run(self, numbers: range) -> None:
        """Take these steps and keep their times."""
        found = self.ask({"from": numbers.start, "to": numbers.stop})
        self.seconds += found["seconds"]
        self.curve += found["fvu"]

    def evaluate(self) -> float:
        """FVU on eight fresh batches."""
        return self.ask({"evaluate": 8})["fvu"]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """The answer to an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise SystemExit(f"a process ended with code {self._process.wait()}")


def main(steps: int = 300, block: int = 15, threads: int = os.cpu_count() or 1) -> None:
    """Print the table and one JSON line."""
    if not PEER_PYTHON.exists():
        raise SystemExit("no .peers/sparsify: run `make peers` first")
    sides = {
        "ours": Side(
            [sys.executable, "-m", "benchmarks.training_ours", str(steps), "data"], threads
        ),
        "peer": Side([str(PEER_PYTHON), "-m", "benchmarks.training_peer", str(steps)], threads),
        "raw": Side([sys.executable, "-m", "benchmarks.training_ours", str(steps), "raw"], threads),
    }
    for start in range(0, steps, block):
        for side in sides.values():
            side.run(range(start, min(start + block, steps)))
            time.sleep(0.2)  # the threads of the side before stop spinning
        print(f"step {start:4d}", {name: round(side.curve[-1], 4) for name, side in sides.items()})
    fvu = {name: side.evaluate() for name, side in sides.items()}
    # The first block is warm-up.
    step = {name: statistics.median(side.seconds[block:]) for name, side in sides.items()}
    print(f"{'':6}{'ms/step':>9}{'tokens/s':>10}{'FVU':>8}")
    for name in sides:
        print(f"{name:6}{step[name] * 1e3:9.1f}{BATCH / step[name]:10.0f}{fvu[name]:8.4f}")
    result = {
        "benchmark": "training",
        "speedup": round(step["peer"] / step["ours"], 2),
        "fvu_ours": round(fvu["ours"], 4),
        "fvu_peer": round(fvu["peer"], 4),
        "fvu_raw": round(fvu["raw"], 4),
        "floor": NOISE,
        "ms_ours": round(step["ours"] * 1e3, 1),
        "ms_peer": round(step["peer"] * 1e3, 1),
        "tokens": steps * BATCH,
        "torch": [sides["ours"].facts["torch"], sides["peer"].facts["torch"]],
        "threads": threads,
    }
    for side in sides.values():
        side.close()
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
