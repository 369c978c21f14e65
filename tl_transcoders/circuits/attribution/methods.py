"""Where gradients are taken, and what they take for a constant."""

from dataclasses import dataclass
from typing import Literal, assert_never, final

from tl_transcoders.errors import ConfigError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionPatching:
    """effect(n) ≈ (n_source − n_base) · ∂m/∂n at the base run; of edges, EAP.

    With `qk_fix`, queries and keys go through the softmax exactly, and only what comes after it is linear. With
    `grad_drop` (nodes only) a node's effect is its mean size when one block after another passes on no gradient:

        1 / (L − 1) · Σ_b |effect(n) with the gradient through what block b writes set to zero|

    Source: Nanda 2023, Attribution Patching; Syed et al. 2023, Attribution Patching Outperforms Automated Circuit
    Discovery; Kramár et al. 2024, AtP*.
    """

    qk_fix: bool = False
    grad_drop: bool = False


@final
@dataclass(frozen=True, slots=True)
class IntegratedGradients:
    """effect(n) ≈ (n_source − n_base) · mean over α of ∂m/∂n, at α = (k + ½) / steps between base and source.

    Over `"inputs"`, embeddings and errors move from base to source together (EAP-IG); over `"activations"`, what one
    layer's heads or MLP write moves alone, layer by layer (`steps` passes for each).

    Source: Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks; Hanna et al. 2024, Have Faith in
    Faithfulness; Marks et al. 2024, Sparse Feature Circuits.

    **Raises:** ConfigError for fewer steps than one.
    """

    steps: int = 10
    over: Literal["inputs", "activations"] = "inputs"

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ConfigError(
                "IntegratedGradients.steps",
                got=repr(self.steps),
                expected="a whole number from 1",
                do="Take about 10.",
            )
        if self.over not in ("inputs", "activations"):
            raise ConfigError(
                "IntegratedGradients.over",
                got=repr(self.over),
                expected='"inputs" or "activations"',
                do="Choose what moves from base to source.",
            )


@final
@dataclass(frozen=True, slots=True)
class RelP:
    """Attribution patching whose gradients take every norm's σ for a constant; attention patterns respond.

    A transcoder's features need no rule of their own: an open gate is linear. An MLP that is not spliced keeps its
    true gradient.

    Source: Jafari et al. 2025, RelP.
    """


@final
@dataclass(frozen=True, slots=True)
class FrozenLinear:
    """Attribution patching whose gradients take σ and attention patterns for constants, as attribution graphs do.

    Source: Ameisen et al. 2025, Circuit Tracing.
    """


Method = AttributionPatching | IntegratedGradients | RelP | FrozenLinear


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What gradients take for a constant."""

    norms: bool = False
    patterns: bool = False


def rules_of(method: Method) -> Rules:
    """What the gradients of a method take for a constant."""
    match method:
        case AttributionPatching() | IntegratedGradients():
            return Rules()
        case RelP():
            return Rules(norms=True)
        case FrozenLinear():
            return Rules(norms=True, patterns=True)
        case _:
            assert_never(method)
