"""Faithfulness as a result, and what its measurement refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from tests.cases import HOSTS, Kind, tokens
from tl_transcoders.circuits.ablation import Faithfulness, faithfulness
from tl_transcoders.circuits.circuit import Circuit
from tl_transcoders.circuits.edits import Mean
from tl_transcoders.circuits.nodes import Embed, Error, Head, Mlp, parse_path
from tl_transcoders.splice import splice
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

RAW = [host for host in HOSTS if not host.processed]
TWO = Kind("two-layers", TopK(5), layers=(0, 2))
BASE, SOURCE = tokens(seed=1), tokens(seed=2)
OTHERS = tokens(batch=5, seed=3)
EMPTY = Circuit()


def last(logits: Tensor) -> Tensor:
    return logits[:, -1, 5] - logits[:, -1, 9]


# the result


def test_a_ratio_of_means_is_not_clamped() -> None:
    found = Faithfulness(
        circuit=torch.tensor([5.0, 3.0]),
        complement=torch.tensor([1.0, -1.0]),
        whole=torch.tensor([3.0, 1.0]),
        empty=torch.tensor([1.0, 0.0]),
    )
    assert found.faithfulness == pytest.approx(3.5 / 1.5)
    assert found.completeness == pytest.approx(-0.5 / 1.5)
    assert found.per_prompt.tolist() == [2.0, 3.0]
    assert not found.inverted


@pytest.mark.parametrize(
    ("whole", "empty", "degenerate"),
    [
        ([2.0, 2.1, 1.9], [0.0, 0.1, 0.0], False),
        ([2.0, -2.0, 0.5], [0.0, 0.0, 0.0], True),
        ([1.0], [1.0], True),
        ([1.0], [1.0 + 1e-5], True),
        ([1.0], [1.1], False),
        ([1.0, 1.0], [1.0, 1.0], True),
    ],
)
def test_a_denominator_within_its_spread_or_rounding_is_degenerate(
    whole: list[float], empty: list[float], degenerate: bool
) -> None:
    values = [torch.tensor(v) for v in (whole, empty)]
    found = Faithfulness(circuit=values[0], complement=values[1], whole=values[0], empty=values[1])
    assert found.degenerate == degenerate


# bad input

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("feature", {"circuit": "f0.99->logits"}, r"f0.99: got feature 99; expected a feature from 0 to 36"),
    ("head", {"circuit": "a0.h7->logits"}, r"a0.h7: got head 7"),
    ("layer", {"given": [9]}, r"a9.h0: got layer 9"),
    ("given kind", {"given": [Embed]}, r"given: got <class"),
    ("given reader", {"given": ["a0.h1<q>"]}, r"given: got Head"),
    ("order", {"circuit": "f2.3->a0.h1<q>"}, r"a0.h1<q>: got a receiver that no sender comes before"),
    ("no source", {"source": None}, r"ablation: got Resample\(\) without source prompts"),
    ("no ablation", {"ablation": "mean"}, r"ablation: got 'mean'"),
    ("lengths", {"source": SOURCE[:, :-1]}, r"source: got tokens \(3, 6\); expected those of base, \(3, 7\)"),
    ("mean lengths", {"ablation": Mean(OTHERS[:, :4])}, r"Mean: got source tokens .* for prompts .*; expected prompts of the same length"),
    ("metric", {"metric": lambda logits: logits.mean()}, r"metric: got shape \(\)"),
    ("errors", {"errors": "live"}, r"errors: got 'live'"),
    ("level", {"level": "head"}, r"level: got 'head'"),
    ("input as node", {"circuit": Circuit([Head(0, 1, "q")])}, r"a0.h1<q>: got an input of a head in a circuit of nodes"),
    ("dropped error", {"circuit": Circuit([Error(0)])}, r'e0: got an error in a splice with error="drop"'),
    ("spliced mlp", {"circuit": Circuit([Mlp(0)])}, r"m0: got an MLP that is spliced"),
]  # fmt: skip


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_bad_input_is_told(change: dict[str, Any], message: str) -> None:
    model = RAW[0].build()
    asked: dict[str, Any] = {"circuit": "a0.h1->logits", "source": SOURCE, "metric": last, **change}
    circuit, source = asked.pop("circuit"), asked.pop("source")
    if isinstance(circuit, str):
        circuit = Circuit(edges=[parse_path(circuit)])  # pyright: ignore
    with (
        splice(model, TWO.build(model)) as spliced,
        pytest.raises(tlt.errors.TLTranscodersError, match=message),
    ):
        faithfulness(spliced, circuit, BASE, source, **asked)


@pytest.mark.usefixtures("unchecked")
def test_what_is_of_another_splice_is_told() -> None:
    model = RAW[0].build()
    with splice(model, TWO.build(model)) as first:
        run = capture(first, BASE)
    with splice(model, TWO.build(model)) as second:
        with pytest.raises(tlt.errors.SpliceError, match="got a run of another splice"):
            faithfulness(second, EMPTY, run, SOURCE, metric=last)
        with pytest.raises(tlt.errors.ConfigError, match="expected a spliced model"):
            faithfulness(model, EMPTY, BASE, SOURCE, metric=last)  # pyright: ignore
    with (
        splice(model, TWO.build(model), exclude="special") as third,
        pytest.raises(tlt.errors.ConfigError, match="edges: got a splice that leaves positions"),
    ):
        faithfulness(third, EMPTY, BASE, SOURCE, metric=last, level="edge")
    with pytest.raises(tlt.errors.SpliceError, match="already removed"):
        faithfulness(second, EMPTY, BASE, SOURCE, metric=last)
