"""B, C, G and the saturated half of E: circuits that run through attention."""

from math import exp

from tests.circuits.blueprint import Blueprint, Layer, Neuron
from tests.circuits.truth import ANSWER, SURE, WRONG, Truth


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
