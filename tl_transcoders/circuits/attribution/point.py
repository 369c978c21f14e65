"""Values and gradients of one pass at a point between two runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attribution.methods import Rules
from tl_transcoders.circuits.metrics import AbstractMetric
from tl_transcoders.circuits.read_metric import read_metric
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice.trace.forward import Errors, Spot, TracedModel
from tl_transcoders.splice.trace.run import Run
from tl_transcoders.splice.trace.swap import sparse

Place = tuple[Spot, int]
KEPT: Final[frozenset[Spot]] = frozenset(
    {"resid_pre", "q", "k", "v", "z", "attn_raw", "mlp_in", "features", "mlp_raw", "sae_in", "sae_out"}
)  # fmt: skip
DIFFERENTIATED: Final[frozenset[Spot]] = frozenset(
    {"q", "k", "v", "z", "mlp_in", "mlp_raw", "sae_in", "sae_out"}
)
PATTERN: Final[frozenset[Spot]] = frozenset({"pattern"})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """How far a point is from the base run: what the embedding and some places have more than there."""

    embed: Tensor | None = None
    added: Mapping[Place, Tensor] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a pass held and the gradient of every prompt's metric with respect to it.

    `values` and `gradients` are `[batch pos ...]`. The gradient of `mlp_in` is that through the MLP alone, the
    gradient of `("embed", 0)` and of `("logits_in", n_layers)` that of the whole stream there.
    """

    model: TracedModel
    values: Mapping[Place, Any]
    gradients: Mapping[Place, Tensor]
    metric: Float[Tensor, " batch"]

    def written(self, layer: int) -> Float[Tensor, "batch pos d_out"]:
        """The gradient of what the MLP, transcoder or SAE of a layer writes, before any norm of it."""
        return self.gradients["sae_out" if layer in self.model.saes else "mlp_raw", layer]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Differentiator:
    """Passes of a run with gradients: what those take for a constant, and how errors behave."""

    run: Run
    metric: AbstractMetric
    rules: Rules
    errors: Errors

    def at(self, move: Move, *, patterns: bool = False) -> Point:
        """Values and gradients at a point; with `patterns`, those of attention patterns too."""
        made = _Pass(self, move, DIFFERENTIATED | PATTERN if patterns else DIFFERENTIATED)
        return made.point(made.gradients())

    def dropping(self, *, patterns: bool = False) -> Iterator[Point]:
        """At the base run, with no gradient passing through what one block writes, block by block."""
        made = _Pass(self, Move(), DIFFERENTIATED | PATTERN if patterns else DIFFERENTIATED)
        for layer in range(self.run.model.n_layers):
            made.dropped.layer = layer
            yield made.point(made.gradients(again=True))

    def measure(self, move: Move) -> Float[Tensor, " batch"]:
        """The metric at a point."""
        return _Pass(self, move, frozenset()).metric.detach()


@final
@dataclass(slots=True)
class _Dropped:
    """The block through which no gradient passes."""

    layer: int = -1


def _unless_dropped(dropped: _Dropped, layer: int, gradient: Tensor) -> Tensor:
    return torch.zeros_like(gradient) if dropped.layer == layer else gradient


@final
class _Pass:
    """A pass whose values keep their way back to the metric."""

    def __init__(self, of: Differentiator, move: Move, differentiated: frozenset[Spot]) -> None:
        model = of.run.model
        if of.rules.norms:
            model = replace(model, anatomy=model.anatomy.with_constant_scales())
        run = replace(of.run, model=model)
        self.model, self.move, self.rules = model, move, of.rules
        self.differentiated, self.dropped = differentiated, _Dropped()
        self.values: dict[Place, Any] = {}
        self.ways: dict[Place, Tensor] = {}
        with torch.enable_grad():
            embed = (run.embed if move.embed is None else run.embed + move.embed).detach()
            self.ways["embed", 0] = embed.requires_grad_()
            x = run.forward(errors=of.errors, visit=self._visit).run(embed)
            self.ways["logits_in", model.n_layers] = x
            self.values["logits_in", model.n_layers] = x
            self.metric = read_metric(run, of.metric, x, run.all_rows)
            self._sum = self.metric.sum()

    def gradients(self, *, again: bool = False) -> dict[Place, Tensor]:
        """The gradient of every way."""
        if not self.metric.requires_grad:
            raise ConfigError(
                "metric",
                got="a number that gradients do not reach",
                expected="a differentiable function of logits",
                do="Compute it with torch, without detach or argmax.",
            )
        tensors = list(self.ways.values())
        found = torch.autograd.grad(self._sum, tensors, retain_graph=again, allow_unused=True)
        return {
            place: torch.zeros_like(way) if gradient is None else gradient
            for (place, way), gradient in zip(self.ways.items(), found, strict=True)
        }

    def point(self, gradients: dict[Place, Tensor]) -> Point:
        """The values of this pass with these gradients."""
        values = {
            place: value.detach() if isinstance(value, Tensor) else value
            for place, value in self.values.items()
        }
        return Point(
            model=self.model, values=values, gradients=gradients, metric=self.metric.detach()
        )

    def _visit(self, spot: Spot, layer: int, value: Any) -> Any:
        if (spot, layer) in self.move.added:
            value = value + self.move.added[spot, layer].to(value.dtype)
        if spot == "pattern" and self.rules.patterns:
            value = value.detach()
        if spot in ("mlp_in", "attn_out", "mlp_out"):
            value = value.clone()
        if spot in ("attn_out", "mlp_out") and value.requires_grad:
            # The hook must not hold this pass, which holds the graph that holds the hook: nobody would free them.
            value.register_hook(partial(_unless_dropped, self.dropped, layer))
        if spot in KEPT:
            self.values[spot, layer] = sparse(value) if spot == "features" else value
        if spot in self.differentiated:
            self.ways[spot, layer] = value
        return value
