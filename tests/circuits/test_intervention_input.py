"""What interventions refuse."""

from typing import Any

import pytest
import torch

import tl_transcoders as tlt
from tests.cases import FEATURES, HOSTS, Kind, only_in_the_whole_table, tokens
from tl_transcoders import errors
from tl_transcoders.circuits.nodes import Error, Feature, Head, Mlp
from tl_transcoders.splice import Mode, splice
from tl_transcoders.transcoders import TopK

TOPK = Kind("topk", TopK(5), skip=True)

pytestmark = only_in_the_whole_table

BAD: list[tuple[Any, str]] = [
    (
        {Feature(0, 99): tlt.Ablate()},
        rf"f0\.99: got feature 99; expected a feature from 0 to {FEATURES - 1}",
    ),
    ({Feature(1, 3): tlt.Ablate()}, r"f1\.3: got layer 1, which no transcoder holds; .* \[0, 2\]"),
    ({Head(0, 2): tlt.Ablate()}, r"a0\.h2: got head 2; expected a head from 0 to 1"),
    ({Head(9, 0): tlt.Ablate()}, r"a9\.h0: got layer 9; expected a layer from 0 to 2"),
    ({Head(0, 1, "q"): tlt.Ablate()}, r"got a0\.h1<q>; expected a feature, what a head writes"),
    ({"f0.3": tlt.Ablate()}, r"got 'f0\.3'; expected .* parse_node"),
    ({Feature(0, 3): 0.0}, r"f0\.3: got 0\.0; expected Set, Add, Scale, Ablate, Patch or Mean"),
    ({Error(0): tlt.Ablate()}, r'e0: got an error in a splice with error="drop"; .*error="keep"'),
    ({Feature(0, 3, 7): tlt.Ablate()}, r"f0\.3@7: got position 7 of prompts of 7 positions"),
    ({Feature(0, 3, -8): tlt.Ablate()}, r"f0\.3@-8: got position -8 of prompts of 7 positions"),
    ({Feature(0, 3, 1): tlt.Ablate(at=slice(2, 3))}, r"f0\.3@1: got a position and at=slice"),
    (
        {Feature(0, 3): tlt.Ablate(at=slice(9, None))},
        r"positions slice\(9, None, None\) of prompts",
    ),
    ({Feature(0, 3): tlt.Set(torch.ones(2, 2))}, r"f0\.3, Set: got shape \(2, 2\); .*\(strength\)"),
    ({Head(0, 1): tlt.Add(torch.ones(3))}, r"a0\.h1, Add: got shape \(3,\); .*\(10\) or \(stren"),
    (
        {Feature(0, 3): tlt.Set(torch.ones(2)), Head(0, 1): tlt.Scale(torch.ones(3))},
        r"got 2 strengths for f0\.3, 3 strengths for a0\.h1; expected the same number",
    ),
    ({Feature(0, 3): tlt.Patch(tokens(3, 6))}, r"Patch: got source tokens \(3, 6\) for prompts"),
    ({Feature(0, 3): tlt.Patch(tokens(2))}, r"Patch: got source tokens \(2, 7\) for prompts"),
    (
        {Feature(0, 3): tlt.Patch(torch.ones(3))},
        r"Patch: got torch.float32 of shape \(3,\)",
    ),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("edits", "message"), BAD, ids=[m[:24] for _, m in BAD])
@pytest.mark.parametrize("constrained", [False, True])
def test_bad_edits_are_refused(edits: Any, message: str, constrained: bool) -> None:
    model = HOSTS[0].build()
    with (
        splice(model, Kind("two", TopK(5), layers=(0, 2)).build(model)) as spliced,
        pytest.raises(errors.TLTranscodersError, match=message),
    ):
        tlt.intervene(spliced, tokens(), edits, constrained=constrained)


@pytest.mark.usefixtures("unchecked")
def test_a_model_that_is_not_spliced_is_refused() -> None:
    model = HOSTS[0].build()
    with pytest.raises(
        errors.ConfigError, match="got a TransformerBridge; expected a spliced model"
    ):
        tlt.intervene(model, tokens(), {})
    spliced = splice(model, TOPK.build(model))
    spliced.remove()
    with pytest.raises(errors.SpliceError, match="got a splice that is already removed"):
        tlt.intervene(spliced, tokens(), {})


@pytest.mark.usefixtures("unchecked")
def test_metrics_of_another_shape_are_refused() -> None:
    model = HOSTS[0].build()
    with splice(model, TOPK.build(model)) as spliced:
        done = tlt.intervene(spliced, tokens(), {Mlp(0): tlt.Scale(2.0)})
    with pytest.raises(errors.ShapeError, match=r"metric: got shape \(\); expected one number"):
        done.effect(lambda logits: logits.mean())


def test_an_edit_that_is_never_reached_raises() -> None:
    model = HOSTS[0].build()
    with splice(model, TOPK.build(model)) as spliced:
        with (
            pytest.raises(errors.HookNeverFiredError, match=r"f1\.3@20: got a run that did not"),
            tlt.intervening(spliced, {Feature(1, 3, 20): tlt.Ablate()}),
        ):
            model(tokens())
        with (
            pytest.raises(errors.HookNeverFiredError, match=r"f1\.3: got a run that did not"),
            spliced.running(Mode.ORIGINAL),
        ):
            tlt.intervene(spliced, tokens(), {Feature(1, 3): tlt.Ablate()})


def test_excluded_positions_are_refused() -> None:
    model = HOSTS[0].build()
    with (
        splice(model, TOPK.build(model), exclude="special") as spliced,
        pytest.raises(errors.ConfigError, match=r"f1\.3@0: got positions that the splice excl"),
    ):
        tlt.intervene(spliced, tokens(), {Feature(1, 3, 0): tlt.Set(1.0)})


@pytest.mark.parametrize("pos", [-1, None])
def test_growing_sequences_are_counted_from_their_start(pos: int | None) -> None:
    model = HOSTS[0].build()
    at = slice(-2, None) if pos is None else None
    with (
        splice(model, TOPK.build(model)) as spliced,
        pytest.raises(errors.ConfigError, match="expected positions counted from its start"),
        tlt.intervening(spliced, {Feature(1, 3, pos): tlt.Ablate(at=at)}),
    ):
        pass


def test_strengths_are_refused_in_a_context() -> None:
    model = HOSTS[0].build()
    with (
        splice(model, TOPK.build(model)) as spliced,
        pytest.raises(errors.ConfigError, match="intervening: got 2 strengths"),
        tlt.intervening(spliced, {Feature(1, 3): tlt.Set(torch.ones(2))}),
    ):
        pass
