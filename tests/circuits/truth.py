"""Hand-built models A to G whose circuits are known: every node's and edge's effect in closed form.

`effects` are those of nodes (or of several together, `"f0.0 + f0.1"`) patched from the source run with everything
after them live; `edges` those of the edge preset, errors live after the receiver; `linear` those edges that the linear
preset sees differently; `gradients` first-order effects Δ·∂m/∂node, which do not pass through errors, and elsewhere
go astray as theory says.
A value of 0 is a decoy: exactly nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.cases import HAS_HOOKED_TRANSFORMER
from tests.circuits.blueprint import Blueprint
from tl_transcoders.circuits.nodes import Node, parse_node

ANSWER, WRONG = 30, 31
SURE = 200.0
"""A score (before the division by √4) so large that attention is one-hot to the last digit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """A model, a pair of prompts, and what is known about them."""

    name: str
    plan: Blueprint
    base: tuple[int, ...]
    source: tuple[int, ...]
    effects: Mapping[str, float]
    edges: Mapping[str, float]
    linear: Mapping[str, float] = field(default_factory=dict)
    gradients: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def hosts(self) -> list[str]:
        """The hosts it can be loaded on here."""
        both = HAS_HOOKED_TRANSFORMER and self.plan.architecture == "gpt2"
        return ["bridge", "hooked"] if both else ["bridge"]

    def model(self, host: str) -> Any:
        return self.plan.bridge() if host == "bridge" else self.plan.hooked()

    @property
    def base_tokens(self) -> Tensor:
        return torch.tensor([self.base])

    @property
    def source_tokens(self) -> Tensor:
        return torch.tensor([self.source])

    def metric(self, logits: Tensor) -> Tensor:
        """logit(answer) − logit(wrong) at the last position."""
        return logits[:, -1, ANSWER] - logits[:, -1, WRONG]


def nodes_of(text: str) -> list[Node]:
    """The nodes of `f0.0 + f0.1`."""
    return [parse_node(part) for part in text.split("+")]


def ends_of(text: str) -> tuple[list[Node], Node]:
    """Senders and receiver of `f0.0 + f0.1->f1.0`."""
    senders, receiver = text.split("->")
    return nodes_of(senders), parse_node(receiver)
