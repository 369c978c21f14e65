"""A, D and the rest of E: chains and gates of features."""

from collections.abc import Mapping
from typing import Any

from tests.circuits.blueprint import Blueprint, Layer, Neuron
from tests.circuits.truth import ANSWER, SURE, Truth
from tl_transcoders.transcoders import JumpReLU


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
