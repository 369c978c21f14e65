"""A base run, and what becomes of the nodes that a circuit lacks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.ablation.ablations import Ablated, Ablation, ablated
from tl_transcoders.circuits.ablation.free import Free, Given, free_of
from tl_transcoders.circuits.checks import check_pair, check_spliced, check_whole_mlp, normal
from tl_transcoders.circuits.circuit import Circuit
from tl_transcoders.circuits.metrics import AbstractMetric, Metric, as_metric
from tl_transcoders.circuits.nodes import Error, Node
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run, as_run

Prompts = Run | Int[Tensor, "batch pos"]
Errors = Literal["node", "keep", "drop"]
ERRORS: Final = ("node", "keep", "drop")
Level = Literal["node", "edge"]
BUDGET: Final = 64_000_000
"""How many numbers the largest tensor of one pass may hold."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What circuits are measured in: a base run, what takes the place of its nodes, and which stay in any case."""

    run: Run
    ablated: Ablated
    metric: AbstractMetric
    errors: Errors
    free: Free

    @property
    def error_layers(self) -> tuple[int, ...]:
        """The layers whose errors are nodes."""
        coders = self.run.model.coders
        kept = (layer for layer in sorted(coders) if coders[layer].policy != "drop")
        return () if self.errors == "drop" else tuple(kept)

    def counts(self, node: Node) -> bool:
        """Whether a node takes part: errors do not where they are dropped."""
        return not (isinstance(node, Error) and self.errors == "drop")

    def prompts(self, numbers: int) -> Iterator[Int[Tensor, " prompt"]]:
        """The prompts, in parts small enough for `numbers` of numbers per prompt."""
        every = torch.arange(self.run.shape[0], device=self.run.tokens.device)
        return iter(every.split(max(1, BUDGET // max(1, numbers))))


def setting_of(
    spliced: Spliced,
    base: Prompts,
    source: Prompts | None,
    *,
    metric: Metric,
    ablation: Ablation,
    errors: Errors,
    given: Given,
) -> Setting:
    """The setting of a measurement; raises where prompts, nodes or options do not fit the model or each other."""
    check_spliced(spliced)
    if errors not in ERRORS:
        raise ConfigError(
            "errors",
            got=repr(errors),
            expected=f"one of {', '.join(map(repr, ERRORS))}",
            do="Choose what becomes of errors.",
        )
    tokens = [run.tokens if isinstance(run, Run) else run for run in (base, source)]
    first, second = tokens[0], tokens[0] if tokens[1] is None else tokens[1]
    assert first is not None
    assert second is not None
    check_pair(spliced, first, second)
    run = as_run(spliced, base)
    values = ablated(ablation, run, None if source is None else as_run(spliced, source))
    kept = [Error] if errors == "keep" else []
    return Setting(
        run=run,
        ablated=values.without("error") if errors == "drop" else values,
        metric=as_metric(metric, run.shape[0]),
        errors=errors,
        free=free_of([*given, *kept], run),
    )


def normal_circuit(circuit: Circuit, setting: Setting) -> Circuit:
    """The circuit with positions counted from the start; raises ConfigError where the model lacks a node of it."""
    run = setting.run
    for node in circuit.nodes:
        check_whole_mlp(node, run.spliced)
    found = {
        node: normal(node, run.spliced, run.shape[1])
        for node in circuit.nodes
        if setting.counts(node)
    }
    return Circuit(
        found.values(),
        {(found[a], found[b]) for a, b in circuit.edges if a in found and b in found},
    )


def level_of(circuit: Circuit, level: Level | None) -> Level:
    """The level asked for, or that of edges where the circuit has any; ConfigError for what is no circuit."""
    check_circuit(circuit)
    if level is None:
        return "edge" if circuit.edges else "node"
    if level not in ("node", "edge"):
        raise ConfigError(
            "level", got=repr(level), expected='"node", "edge" or None', do="Choose one of these."
        )
    return level


def check_circuit(circuit: object) -> None:
    """Raises ConfigError for what is no circuit."""
    if not isinstance(circuit, Circuit):
        raise ConfigError(
            "circuit",
            got=f"a {type(circuit).__name__}",
            expected="a Circuit",
            do="Take that of a result: attributed.circuit(nodes=50), found.circuit; or write Circuit([...]).",
        )
