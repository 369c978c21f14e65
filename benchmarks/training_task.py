"""What both sides of `benchmarks.training` learn, and how their processes are spoken to. Needs torch only.

The ground truth is a sparse map with a known floor: x = Σ a_i u_i and y = Σ a_i v_i + noise over the same few
active causes i. Inputs and outputs have the spread of SmolLM2's MLP 5 (0.13 and 1.1).
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

D, FEATURES, K, BATCH = 576, 4608, 32, 2048
LR = 2e-4 / (FEATURES / 2**14) ** 0.5
BETAS = (0.9, 0.999)
CAUSES, ACTIVE, NOISE = 3000, 24, 0.05
X_SPREAD, Y_SPREAD = 0.13, 1.1


@dataclass(frozen=True)
class Task:
    """The ground truth; every batch is a function of its number."""

    u: Tensor
    v: Tensor
    chance: Tensor

    @classmethod
    def new(cls) -> "Task":
        """The same every time."""
        generator = torch.Generator().manual_seed(0)
        u, v = (torch.randn(CAUSES, D, generator=generator) / ACTIVE**0.5 for _ in range(2))
        return cls(u, v, 1 / (torch.arange(CAUSES) + 30.0) ** 0.8)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Batch `number` of the stream; NOISE of the variance of y cannot be explained."""
        generator = torch.Generator().manual_seed(1 + number)
        causes = self.chance.expand(BATCH, -1).multinomial(ACTIVE, generator=generator)
        size = torch.randn(BATCH, ACTIVE, generator=generator).abs()
        x = embedding_bag(causes, self.u, per_sample_weights=size, mode="sum")
        y = embedding_bag(causes, self.v, per_sample_weights=size, mode="sum")
        noise = torch.randn(y.shape, generator=generator) * y.std() * (NOISE / (1 - NOISE)) ** 0.5
        return X_SPREAD * x, Y_SPREAD * (y + noise)


def first_encoder() -> Tensor:
    """`[feature d_in]`, of unit-norm rows in expectation; both sides begin with it and a decoder of zeros."""
    return torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(7)) / D**0.5


def lr_scale(step: int, steps: int) -> float:
    """Linear warm-up over a twentieth, then linear decay to 0: sparsify's schedule."""
    share = (step + 0.5) / steps
    return min(share / 0.05, (1 - share) / 0.95)


def serve(
    step: Callable[[int, Tensor, Tensor], float], evaluate: Callable[[Tensor, Tensor], float]
) -> None:
    """Answer the parent: `{"from": 0, "to": 10}` runs and times steps, `{"evaluate": 3}` measures FVU on fresh batches."""
    task = Task.new()
    answer({"torch": torch.__version__, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        order = json.loads(line)
        if "evaluate" in order:
            fvus = [evaluate(*task.batch(-2 - i)) for i in range(order["evaluate"])]
            answer({"fvu": sum(fvus) / len(fvus)})
        else:
            answer(_timed(step, task, range(order["from"], order["to"])))


def answer(data: dict[str, object]) -> None:
    """One line to the parent."""
    print("answer", json.dumps(data), flush=True)


def _timed(
    step: Callable[[int, Tensor, Tensor], float], task: Task, numbers: range
) -> dict[str, object]:
    seconds, fvus = [], []
    for number in numbers:
        x, y = task.batch(number)
        began = time.perf_counter()
        fvus.append(step(number, x, y))
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "fvu": fvus}
