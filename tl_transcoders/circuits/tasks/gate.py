"""Whether a model does a task well enough for its circuit to be worth tracing."""

import math
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.metrics import AbstractMetric
from tl_transcoders.circuits.tasks.task import Task
from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import check_tokens, resolve_host
from tl_transcoders.splice import Spliced

LEAST_ACCURACY: Final = 0.9
LEAST_SEPARATION: Final = 3.0


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """The metric of every base and source prompt, and what follows from them."""

    task: str
    base: Float[Tensor, " batch"]
    source: Float[Tensor, " batch"]

    @property
    def accuracy(self) -> float:
        """Share of base prompts with a positive metric."""
        return float((self.base > 0).double().mean())

    @property
    def difference(self) -> float:
        """Mean of m(base) − m(source)."""
        return float((self.base - self.source).double().mean())

    @property
    def stderr(self) -> float:
        """Standard error of that mean; infinite for a single pair."""
        n = len(self.base)
        return float((self.base - self.source).double().std()) / math.sqrt(n) if n > 1 else math.inf

    @property
    def separation(self) -> float:
        """|difference| / stderr."""
        if self.stderr == 0:
            return math.inf if self.difference else 0.0
        return abs(self.difference) / self.stderr

    @property
    def passed(self) -> bool:
        """Whether accuracy is at least 0.9 and separation above 3."""
        return self.accuracy >= LEAST_ACCURACY and self.separation > LEAST_SEPARATION

    def __str__(self) -> str:
        return (
            f"{self.task}: accuracy {self.accuracy:.2f}, m(base) {float(self.base.mean()):.2f}, "
            f"m(source) {float(self.source.mean()):.2f}, separation {self.separation:.1f} stderr"
        )


def gate(model: Any, task: Task, *, batch_size: int = 8) -> Gate:
    """How well a model does a task.

    **Arguments:** `model`, a HookedTransformer, TransformerBridge or splice (which is measured as it stands,
    transcoders and all).
    """
    return Gate(
        task=task.name,
        base=measure(model, task.base, task.metric, batch_size=batch_size),
        source=measure(model, task.source, task.metric, batch_size=batch_size),
    )


def require(model: Any, task: Task, *, batch_size: int = 8) -> Gate:
    """The gate of a task the model does well; raises ConfigError where it does not."""
    found = gate(model, task, batch_size=batch_size)
    if found.passed:
        return found
    raise ConfigError(
        f"task {task.name}",
        got=f"accuracy {found.accuracy:.2f} and separation {found.separation:.1f} stderr",
        expected=f"accuracy {LEAST_ACCURACY} or more and separation above {LEAST_SEPARATION}",
        do="Choose a task this model can do, or try prepend_bos the other way.",
    )


def measure(
    model: Any, tokens: Int[Tensor, "batch pos"], metric: AbstractMetric, *, batch_size: int = 8
) -> Float[Tensor, " batch"]:
    """The metric of every prompt, `batch_size` prompts at a time, without gradient."""
    host = model.host if isinstance(model, Spliced) else resolve_host(model)
    check_tokens(host, tokens, "gate")
    values = []
    for rows in torch.arange(len(tokens), device=host.device).split(batch_size):
        logits = host.logits(tokens.to(host.device)[rows])
        read = logits if metric.pos is None else logits[:, metric.pos]
        needed = metric.needs(host.d_vocab)
        values.append(metric.of_rows(read if needed is None else read[..., needed], rows))
    return torch.cat(values)
