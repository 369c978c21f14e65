"""F and the post-norm variant of G: circuits whose writes and reads are normalised."""

from collections.abc import Mapping
from math import sqrt

from tests.circuits.blueprint import Blueprint, Layer, Neuron
from tests.circuits.truth import ANSWER, Truth


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
        linear={"a0.h0->logits": written(1), "f0.0->logits": 6 * written(1)},
    )
