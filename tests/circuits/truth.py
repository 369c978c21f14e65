"""Hand-built models A to G whose circuits are known: every node's and edge's effect in closed form.

`effects` are those of nodes (or of several together, `"f0.0 + f0.1"`) patched from the source run with everything
after them live; `edges` those of the edge preset, errors live after the receiver; `linear` those edges that the linear
preset sees differently; `gradients` first-order effects Δ·∂m/∂node, which do not pass through errors, and elsewhere
go astray as theory says.
A value of 0 is a decoy: exactly nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import exp, sqrt
from typing import Any

import torch
from torch import Tensor

from tests.cases import HAS_HOOKED_TRANSFORMER
from tests.circuits.blueprint import Blueprint, Layer, Neuron
from tl_transcoders.circuits.nodes import Node, parse_node
from tl_transcoders.transcoders import JumpReLU

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


def linear_chain(*, skip: bool) -> Truth:
    """A. embed → f0.0 → a1.h0<v> → f1.0, e1 (and a skip) → logits: x · 2 · 3 · (5 + ½ (+ 2))."""
    # A skip is no node: it belongs to the way from a1.h0 to the logits.
    fixed = {"queries": [{"last": SURE}], "keys": [{"src": 1.0}], "values": [{"m": 1.0}]}
    first = Layer(
        features=[
            Neuron({"x": 1}, {"m": 2}),
            Neuron({"x": 1}, {"dead": 1}),
            Neuron({"x": 1}, {}),
        ],
        errors=[Neuron({"x": 1}, {"dead": 0.25})],
        constant={"g": 7},
    )
    second = Layer(
        **{kind: dict.fromkeys(range(3), wirings) for kind, wirings in fixed.items()},
        outputs={0: [{"h": 3}], 1: [], 2: [{"dead": 1}]},
        features=[Neuron({"h": 1}, {"g": 5}), Neuron({"m": 1}, {"g": 5})],
        errors=[Neuron({"h": 1}, {"g": 0.5})],
        constant={"g": 2},
        skip=[Neuron({"h": 1}, {"g": 2})] if skip else [],
    )
    total = 90.0 if skip else 66.0
    chain = {"embed": total, "f0.0": total, "a1.h0": total, "f1.0": 60.0, "e1": 6.0}
    decoys = ("f0.1", "f0.2", "e0", "a1.h1", "a1.h2", "a1.h3", "f1.1")
    edges = {
        "embed->f0.0": total,
        "f0.0->a1.h0<v>": total,
        "f0.0 + f0.1->a1.h0<v>": total,
        "a1.h0->f1.0": 60.0,
        "a1.h0->e1": 6.0,
        "f1.0->logits": 60.0,
        "e1->logits": 6.0,
        "f1.0 + e1->logits": 66.0,
    }
    nothing = (
        "embed->logits f0.0->logits a1.h0->logits a1.h2->logits embed->a1.h0<v> embed->f1.0 f0.0->f1.0 "
        "f0.0->a1.h0<q> f0.0->a1.h0<k> f0.0->a1.h1<v> f0.0->a1.h2<v> f0.1->a1.h0<v> e0->a1.h0<v> "
        "embed->f0.1 embed->f0.2 embed->e0 a1.h2->f1.0 f0.0->f1.1"
    )
    return Truth(
        name="A-linear-chain-skip" if skip else "A-linear-chain",
        plan=Blueprint(
            architecture="gpt2",
            wires="last src x m h g dead",
            layers=[first, second],
            embeds={1: {"src": 1, "x": 1}, 2: {"src": 1, "x": 3}, 3: {"last": 1}},
            unembeds={ANSWER: {"g": 1}},
        ),
        base=(0, 1, 0, 3),
        source=(0, 2, 0, 3),
        effects=chain | dict.fromkeys(decoys, 0.0) | {"f1.0 + e1": 66.0},
        edges=edges
        | dict.fromkeys(nothing.split(), 0.0)
        | {"a1.h0->logits": 24.0 if skip else 0.0},
        gradients=chain
        | dict.fromkeys(("embed", "f0.0", "a1.h0"), total - 6)
        | dict.fromkeys(decoys, 0.0),
    )


def induction() -> Truth:
    """B. a0.h0 writes every position's previous token, a1.h0 looks for its own token there: A B … A → B."""
    letters, places = "ABCD", range(6)
    copying = [{f"t{letter}": 1.0} for letter in letters]
    previous = Layer(
        queries={0: [{f"at{p + 1}": 4 * SURE} for p in places[:-1]]},
        keys={0: [{f"at{p}": 1.0} for p in places[:-1]]},
        values={0: copying},
        outputs={0: [{f"p{letter}": 1.0} for letter in letters]},
        features=[Neuron({"tC": 1}, {"dead": 1})],
        constant={"dead": 3},
    )
    looking = Layer(
        queries={0: [{f"t{letter}": 4 * SURE} for letter in letters]},
        keys={0: [{f"p{letter}": 1.0} for letter in letters]},
        values={0: copying},
        outputs={0: [{f"o{letter}": 1.0} for letter in letters]},
    )
    chain = ("embed", "a0.h0", "a1.h0")
    edges = ("embed->a0.h0<v>", "a0.h0->a1.h0<k>", "a1.h0->logits")
    nothing = (
        "embed->a0.h0<q> embed->a0.h0<k> embed->a1.h0<q> embed->a1.h0<v> a0.h0->a1.h0<q> a0.h0->a1.h0<v> "
        "a0.h0->logits embed->logits a0.h0->a1.h1<k> f0.0->a1.h0<k> f0.0->logits"
    )
    wires = [f"{kind}{letter}" for kind in "tpo" for letter in letters] + [f"at{p}" for p in places]
    return Truth(
        name="B-induction",
        plan=Blueprint(
            architecture="gpt2",
            wires=" ".join([*wires, "dead"]),
            layers=[previous, looking],
            embeds={i + 1: {f"t{letter}": 1} for i, letter in enumerate(letters)},
            positions={p: {f"at{p}": 1} for p in places},
            unembeds={ANSWER: {"oB": 4}, WRONG: {"oD": 4}},
            d_head=16,
        ),
        base=(0, 1, 2, 3, 4, 1),
        source=(0, 3, 2, 1, 4, 1),
        effects=dict.fromkeys(chain, -8.0) | dict.fromkeys(("f0.0", "e0", "a0.h1", "a1.h1"), 0.0),
        edges=dict.fromkeys(edges, -8.0) | dict.fromkeys(nothing.split(), 0.0),
    )


def feature_driven_query() -> Truth:
    """C. f0.0 at the query looks for what f0.1 wrote at the key: score 1.5 · f0.0 · f0.1, all other scores 0."""

    def value(score: float) -> float:
        return 4 * exp(score) / (exp(score) + 3)

    alone, both = value(1.5) - value(0), value(3.0) - value(0)
    first = Layer(
        features=[
            Neuron({"ask": 1}, {"look": 1}),
            Neuron({"offer": 1}, {"key": 1}),
            Neuron({"ask": 1}, {"dead": 1}),
        ]
    )
    second = Layer(
        queries={0: [{"look": 3}]},
        keys={0: [{"key": 1}]},
        values={0: [{"val": 1}]},
        outputs={0: [{"o": 4}]},
    )
    return Truth(
        name="C-feature-driven-query",
        plan=Blueprint(
            architecture="gpt2",
            wires="ask offer look key val o dead",
            layers=[first, second],
            embeds={1: {"offer": 1, "val": 1}, 2: {"offer": 2, "val": 1}, 4: {"ask": 1}},
            unembeds={ANSWER: {"o": 1}},
        ),
        base=(0, 1, 0, 3),
        source=(0, 2, 0, 4),
        effects={
            "embed": both,
            "f0.0": alone,
            "f0.1": 0.0,
            "f0.2": 0.0,
            "f0.0 + f0.1": both,
            "a1.h0": both,
            "a1.h1": 0.0,
            "e0": 0.0,
        },
        edges={
            "embed->f0.0": alone,
            "embed->f0.1": 0.0,
            "f0.0->a1.h0<q>": alone,
            "f0.1->a1.h0<k>": 0.0,
            "a1.h0->logits": both,
            **dict.fromkeys(
                "f0.0->a1.h0<k> f0.0->a1.h0<v> f0.1->a1.h0<v> f0.2->a1.h0<q> f0.0->logits".split(),
                0.0,
            ),
        },
        linear={"embed->f0.0": 0.0},
    )


def _two_inputs(
    name: str,
    second: Layer,
    base: Mapping[str, float],
    source: Mapping[str, float],
    **known: Any,
) -> Truth:
    """f0.0 copies wire du to u, f0.1 dv to v; the second layer does something with them and writes g."""
    first = Layer(features=[Neuron({"du": 1}, {"u": 1}), Neuron({"dv": 1}, {"v": 1})])
    return Truth(
        name=name,
        plan=Blueprint(
            architecture="gpt2",
            wires="du dv u v g",
            layers=[first, second],
            embeds={1: base, 2: source},
            unembeds={ANSWER: {"g": 1}},
        ),
        base=(0, 0, 1),
        source=(0, 0, 2),
        **known,
    )


def and_gate() -> Truth:
    """D. f1.0 = relu(u + v − 1.5): one input alone does nothing, both together do."""
    return _two_inputs(
        "D-and-gate",
        Layer(features=[Neuron({"u": 1, "v": 1}, {"g": 2}, bias=-1.5)]),
        {},
        {"du": 1, "dv": 1},
        effects={
            "f0.0": 0.0,
            "f0.1": 0.0,
            "f0.0 + f0.1": 1.0,
            "f1.0": 1.0,
            "embed": 1.0,
            "e1": 0.0,
        },
        edges={
            "f0.0->f1.0": 0.0,
            "f0.1->f1.0": 0.0,
            "f0.0 + f0.1->f1.0": 1.0,
            "f1.0->logits": 1.0,
            "f0.0 + f0.1->logits": 0.0,
        },
        linear={"f0.0 + f0.1->f1.0": 0.0},
        gradients={"f0.0": 0.0, "f0.1": 0.0, "f1.0": 1.0},
    )


def backup() -> Truth:
    """E. min(u + v, 1): each input stands in for the other, so taking one away does nothing."""
    both = {"u": 1, "v": 1}
    return _two_inputs(
        "E-backup",
        Layer(features=[Neuron(both, {"g": 1}), Neuron(both, {"g": -1}, bias=-1)]),
        {"du": 1, "dv": 1},
        {},
        effects={
            "f0.0": 0.0,
            "f0.1": 0.0,
            "f0.0 + f0.1": -1.0,
            "f1.0": -2.0,
            "f1.1": 1.0,
            "embed": -1.0,
        },
        edges={
            "f0.0->f1.0": -1.0,
            "f0.0->f1.1": 1.0,
            "f0.0 + f0.1->f1.0": -2.0,
            "f0.0->logits": 0.0,
        },
        gradients={"f0.0": 0.0, "f0.1": 0.0},
    )


def cancellation() -> Truth:
    """E. f0.0 writes +1 directly and −1 through f1.0: no total effect, two edges."""
    return Truth(
        name="E-cancellation",
        plan=Blueprint(
            architecture="gpt2",
            wires="du u g",
            layers=[
                Layer(features=[Neuron({"du": 1}, {"g": 1, "u": 1})]),
                Layer(features=[Neuron({"u": 1}, {"g": -1})]),
            ],
            embeds={1: {"du": 1}, 2: {"du": 2}},
            unembeds={ANSWER: {"g": 1}},
        ),
        base=(0, 0, 1),
        source=(0, 0, 2),
        effects={"f0.0": 0.0, "f1.0": -1.0, "embed": 0.0},
        edges={"f0.0->logits": 1.0, "f0.0->f1.0": -1.0, "f1.0->logits": -1.0, "embed->f0.0": 0.0},
        gradients={"f0.0": 0.0, "f1.0": -1.0},
    )


def softmax_saturation() -> Truth:
    """E. f0.0 turns a saturated query from one key to another; its gradient is next to nothing."""

    def value(s: float) -> float:
        return exp(s) / (exp(s) + exp(-s) + 2)

    effect, s = value(-20) - value(20), 20.0
    slope = value(s) * (1 - (exp(s) - exp(-s)) / (exp(s) + exp(-s) + 2)) * 40
    return Truth(
        name="E-softmax-saturation",
        plan=Blueprint(
            architecture="gpt2",
            wires="last ask look mark val o",
            layers=[
                Layer(features=[Neuron({"ask": 1}, {"look": 1})]),
                Layer(
                    queries={0: [{"look": 80, "last": -40}]},
                    keys={0: [{"mark": 1}]},
                    values={0: [{"val": 1}]},
                    outputs={0: [{"o": 1}]},
                ),
            ],
            embeds={
                1: {"mark": 1, "val": 1},
                2: {"mark": -1},
                3: {"last": 1, "ask": 1},
                4: {"last": 1},
            },
            unembeds={ANSWER: {"o": 1}},
        ),
        base=(0, 1, 2, 3),
        source=(0, 1, 2, 4),
        effects={"f0.0": effect, "a1.h0": effect, "embed": effect, "a1.h1": 0.0},
        edges={
            "f0.0->a1.h0<q>": effect,
            "f0.0->a1.h0<k>": 0.0,
            "f0.0->a1.h0<v>": 0.0,
            "a1.h0->logits": effect,
            "embed->a1.h0<q>": 0.0,
        },
        gradients={"f0.0": -slope},
    )


def relu_saturation() -> Truth:
    """E. f1.0 = relu(u − 1) is off in the base run and on in the source run."""
    return _two_inputs(
        "E-relu-saturation",
        Layer(features=[Neuron({"u": 1}, {"g": 1}, bias=-1)]),
        {"du": 0.5},
        {"du": 2},
        effects={"f0.0": 1.0, "f1.0": 1.0, "embed": 1.0, "f0.1": 0.0},
        edges={"f0.0->f1.0": 1.0, "f1.0->logits": 1.0, "f0.1->f1.0": 0.0, "embed->f0.0": 1.0},
        linear={"f0.0->f1.0": 0.0},
        gradients={"f0.0": 0.0, "f1.0": 1.0},
    )


def jumprelu_saturation() -> Truth:
    """E. f1.0 jumps from 0 to u where u passes 1.25; the MLP is relu(u), so the error makes up for it: ½, then 0."""
    return _two_inputs(
        "E-jumprelu-saturation",
        Layer(features=[Neuron({"u": 1}, {"g": 1})], activation=JumpReLU(), threshold=1.25),
        {"du": 0.5},
        {"du": 2},
        effects={"f0.0": 1.5, "f1.0": 2.0, "e1": -0.5, "f1.0 + e1": 1.5, "embed": 1.5, "f0.1": 0.0},
        edges={"f0.0->f1.0": 2.0, "f0.0->e1": -0.5, "f1.0->logits": 2.0, "e1->logits": -0.5},
        linear={"f0.0->f1.0": 0.0},
        gradients={"f0.0": 0.0, "f1.0": 2.0},
    )


def rms_norm(*, balanced: bool) -> Truth:
    """F. f0.0 reads x/σ; with a wire that balances x, σ is the same in both runs and freezing it costs nothing."""
    x, y, eps, d_model = 0.6, 0.8, 1e-6, 10
    other = {x: y, y: x}

    def sigma(value: float) -> float:
        squares = 1 + value**2 + (other[value] ** 2 if balanced else 0)
        return sqrt(2 * squares / d_model + eps)

    def token(value: float) -> Mapping[str, float]:
        return {"one": 1, "x": value} | ({"b": other[value]} if balanced else {})

    exact, frozen = 5 * (y / sigma(y) - x / sigma(x)), 5 * (y - x) / sigma(x)
    return Truth(
        name="F-rms-norm-balanced" if balanced else "F-rms-norm",
        plan=Blueprint(
            architecture="llama",
            wires="x b one u dead",
            layers=[Layer(features=[Neuron({"x": 1}, {"u": 1}), Neuron({"b": 1}, {"dead": 1})])],
            embeds={0: {"one": 1}, 1: token(x), 2: token(y)},
            unembeds={ANSWER: {"u": 5}},
            norms={"ln2.0": eps},
        ),
        base=(0, 0, 1),
        source=(0, 0, 2),
        effects={"embed": exact, "f0.0": exact, "f0.1": 0.0, "e0": 0.0, "a0.h0": 0.0},
        edges={
            "embed->f0.0": exact,
            "embed->f0.1": 0.0,
            "f0.0->logits": exact,
            "embed->logits": 0.0,
        },
        linear={"embed->f0.0": frozen},
    )


def grouped_query_attention() -> Truth:
    """G. Two query heads share a key-value head: h0 looks for what f0.0 marks, h1 looks everywhere alike."""
    first = Layer(features=[Neuron({"kp": 1}, {"k": 1}), Neuron({"vp": 1}, {"val": 1})])
    second = Layer(
        queries={0: [{"last": SURE}]},
        keys={0: [{"k": 1}]},
        values={0: [{"val": 1}]},
        outputs={0: [{"g": 2}], 1: [{"g": 4}]},
    )
    return Truth(
        name="G-grouped-query-attention",
        plan=Blueprint(
            architecture="llama",
            wires="last kp vp k val g",
            layers=[first, second],
            embeds={
                1: {"kp": 1, "vp": 1},
                2: {"vp": 3},
                3: {"last": 1},
                5: {"vp": 2},
                6: {"kp": 1, "vp": 3},
            },
            unembeds={ANSWER: {"g": 1}},
            n_heads=2,
            n_groups=1,
        ),
        base=(0, 1, 2, 3),
        source=(0, 5, 6, 3),
        effects={
            "f0.0": 4.0,
            "f0.1": 3.0,
            "f0.0 + f0.1": 5.0,
            "embed": 5.0,
            "a1.h0": 4.0,
            "a1.h1": 1.0,
            "a1.h0 + a1.h1": 5.0,
            "a0.h0": 0.0,
            "e0": 0.0,
        },
        edges={
            "f0.0->a1.kv0<k>": 4.0,
            "f0.0->a1.h0<k>": 4.0,
            "f0.0->a1.h1<k>": 0.0,
            "f0.0->a1.kv0<v>": 0.0,
            "f0.0->a1.h0<q>": 0.0,
            "f0.1->a1.kv0<v>": 3.0,
            "f0.1->a1.h0<v>": 2.0,
            "f0.1->a1.h1<v>": 1.0,
            "f0.1->a1.kv0<k>": 0.0,
            "a1.h0->logits": 4.0,
            "a1.h1->logits": 1.0,
        },
    )


def post_norm() -> Truth:
    """G. What heads and features write is normalised before it is added: v, 1 → v/σ, 1/σ."""
    eps, d_model = 1e-6, 14

    def written(value: float) -> float:
        return value / sqrt(2 * (value**2 + 1) / d_model + eps)

    head, feature = written(2) - written(1), 3 * (written(3) - written(1))
    layer = Layer(
        values={0: [{"x": 1}], 1: [{"one": 1}]},
        outputs={0: [{"hx": 4}], 1: [{"hy": 1}]},
        features=[Neuron({"xl": 1}, {"u": 1}), Neuron({"x": 1}, {"u": 1})],
        constant={"y": 1},
    )
    return Truth(
        name="G-post-norm",
        plan=Blueprint(
            architecture="gemma3",
            wires="x xl hx hy u y one",
            layers=[layer],
            embeds={
                0: {"one": 1},
                1: {"one": 1, "x": 1},
                2: {"one": 1, "x": 2},
                3: {"one": 1, "xl": 1},
                4: {"one": 1, "xl": 3},
            },
            unembeds={ANSWER: {"hx": 1, "u": 3}},
            norms={"ln1_post.0": eps, "ln2_post.0": eps},
        ),
        base=(0, 1, 0, 3),
        source=(0, 2, 0, 4),
        effects={
            "a0.h0": head,
            "a0.h1": 0.0,
            "f0.0": feature,
            "f0.1": 0.0,
            "e0": 0.0,
            "a0.h0 + f0.0": head + feature,
            "embed": head + feature,
        },
        edges={
            "embed->a0.h0<v>": head,
            "embed->a0.h1<v>": 0.0,
            "embed->f0.0": feature,
            "a0.h0->logits": head,
            "f0.0->logits": feature,
            "a0.h0->f0.0": 0.0,
            "embed->logits": 0.0,
        },
    )


@cache
def truths() -> list[Truth]:
    """All of them."""
    return [
        linear_chain(skip=False),
        linear_chain(skip=True),
        induction(),
        feature_driven_query(),
        and_gate(),
        backup(),
        cancellation(),
        softmax_saturation(),
        relu_saturation(),
        jumprelu_saturation(),
        rms_norm(balanced=True),
        rms_norm(balanced=False),
        grouped_query_attention(),
        post_norm(),
    ]


TRUTHS = [(truth, host) for truth in truths() for host in truth.hosts]
