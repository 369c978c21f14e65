"""What senders become by their records: against the slow twin, interventions and the sweep."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from tests.cases import (
    D_MODEL,
    HOSTS,
    WHOLE_TABLE,
    Host,
    Kind,
    case_id,
    only_in_the_whole_table,
    tokens,
)
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, Mlp, Node
from tl_transcoders.circuits.patching import ActiveFeatures, AllHeads, Freeze, sweep
from tl_transcoders.circuits.reference import live_path_patch
from tl_transcoders.circuits.values import mean_values
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.slow, only_in_the_whole_table]

RAW = [host for host in HOSTS if not host.processed]
every_raw_host = pytest.mark.parametrize("host", RAW if WHOLE_TABLE else RAW[::2], ids=case_id)
SKIP = Kind("topk-skip", TopK(5), skip=True)
BASE, SOURCE, DATA = tokens(seed=1), tokens(seed=2), tokens(11, seed=3)
CLOSE: dict[str, Any] = {"atol": 3e-5, "rtol": 2e-3}


def last(logits: Tensor) -> Tensor:
    return logits[:, -1, 5] - logits[:, -1, 9]


def cached(spliced: Spliced, ids: Tensor, name: str) -> Tensor:
    """What a hook point carries, heads with an axis of their own."""
    with torch.no_grad():
        value = spliced.model.run_with_cache(ids, names_filter=name)[1][name]
    return value.reshape(*ids.shape, 2, -1) if name.endswith("hook_z") else value


def records(
    spliced: Spliced, index: int
) -> tuple[dict[Node, Any], dict[Node, Callable[[Tensor], Tensor]]]:
    """Senders with their records, and with what those make of base values, written by hand."""
    vector = torch.linspace(-1, 1, D_MODEL)
    z = cached(spliced, DATA, "blocks.0.attn.hook_z")[:, :, 1].mean(0)
    embedded = cached(spliced, DATA, "blocks.0.hook_resid_pre").mean((0, 1))
    features = cached(spliced, SOURCE, "blocks.0.mlp.hook_post")[:, :, index]
    given = {
        Head(0, 1): tlt.Mean(DATA),
        Embed(3): tlt.Mean(DATA, per_position=False),
        Feature(0, index): tlt.Patch(SOURCE),
        Feature(0, index + 1): tlt.Set(2.0),
        Error(0): tlt.Add(vector),
        Head(1, 0): tlt.Scale(0.5),
        Head(1, 1): tlt.Ablate(),
    }
    by_hand: dict[Node, Callable[[Tensor], Tensor]] = {
        Head(0, 1): lambda v: z.expand_as(v),
        Embed(3): lambda v: embedded.expand_as(v),
        Feature(0, index): lambda v: features,
        Feature(0, index + 1): lambda v: torch.full_like(v, 2.0),
        Error(0): lambda v: v + vector,
        Head(1, 0): lambda v: v / 2,
        Head(1, 1): torch.zeros_like,
    }
    return given, by_hand


@every_raw_host
@pytest.mark.parametrize("preset", ["edge", "wang", "linear"])
def test_every_record_is_what_the_slow_twin_sends(host: Host, preset: Any) -> None:
    model = host.build()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        base = capture(spliced, BASE)
        index = min(int(base.values["features", 0].indices[0]), 35)
        given, by_hand = records(spliced, index)
        for receivers in (["a2.h0<v>", "f2.5"], ["logits"]):
            fast = tlt.path_patch(
                spliced, base, senders=given, receivers=receivers, metric=last, freeze=preset
            )
            nodes = [tlt.circuits.parse_node(text) for text in receivers]
            slow = live_path_patch(spliced, BASE, None, by_hand, nodes, last, freeze=preset)
            torch.testing.assert_close(fast.effect, slow, **CLOSE)
            assert fast.effect.abs().max() > 1e-4
            assert fast.source is None
            other = {**given, Head(1, 1): tlt.Set(5.0), Feature(0, index + 1): tlt.Set(20.0)}
            wrong = tlt.path_patch(
                spliced, base, senders=other, receivers=receivers, metric=last, freeze=preset
            )
            assert not torch.allclose(wrong.effect, slow, **CLOSE)


@every_raw_host
def test_into_the_logits_alone_it_is_a_constrained_intervention(host: Host) -> None:
    model = host.build()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        index = int(capture(spliced, BASE).values["features", 1].indices[0])
        edits: dict[Any, Any] = {
            Feature(1, index): tlt.Set(3.0, at=slice(2, 5)),
            Head(2, 1, pos=-1): tlt.Mean(DATA),
            Error(2): tlt.Mean(DATA, per_position=False),
        }
        sent = tlt.path_patch(spliced, BASE, senders=edits, receivers=["logits"], metric=last)
        done = tlt.intervene(spliced, BASE, edits, constrained=True)
    torch.testing.assert_close(sent.effect, done.effect(last), **CLOSE)


@every_raw_host
def test_means_are_those_of_what_hook_points_carry(host: Host) -> None:
    names: dict[Any, str] = {
        ("embed", 0): "blocks.0.hook_resid_pre",
        ("z", 1): "blocks.1.attn.hook_z",
        ("features", 1): "blocks.1.mlp.hook_post",
        ("error", 2): "blocks.2.mlp.hook_error",
        ("mlp_out", 0): "blocks.0.hook_mlp_out",
    }
    model = host.build()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        each = mean_values(spliced, tlt.Mean(DATA), names, 7)
        over = mean_values(spliced, tlt.Mean(DATA, per_position=False), names, 7)
        for place, name in names.items():
            theirs = cached(spliced, DATA, name)
            close: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-4}
            torch.testing.assert_close(each[place], theirs.mean(0, keepdim=True), **close)
            expected = theirs.mean((0, 1), keepdim=True).expand_as(over[place])
            torch.testing.assert_close(over[place], expected, **close)


@every_raw_host
def test_a_mean_is_that_of_the_data_set(host: Host) -> None:
    model = host.build()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        index = int(capture(spliced, DATA).values["features", 1].indices[0])
        theirs = cached(spliced, DATA, "blocks.1.mlp.hook_post")[..., index]
        for mean, values in (
            (tlt.Mean(DATA), theirs.mean(0)),
            (tlt.Mean(DATA, per_position=False), theirs.mean().expand(7)),
        ):
            done = tlt.intervene(spliced, BASE, {Feature(1, index): mean})
            by_hand: dict[Any, Any] = {
                Feature(1, index, pos): tlt.Set(float(value)) for pos, value in enumerate(values)
            }
            expected = tlt.intervene(spliced, BASE, by_hand)
            torch.testing.assert_close(done.logits, expected.logits, atol=2e-5, rtol=1e-4)
            assert not torch.allclose(done.logits, done.base, atol=1e-4)


def test_excluded_positions_do_not_count_and_stay() -> None:
    model = RAW[0].build()
    data = DATA.clone()
    data[::2, 4] = data[0, 0]
    with splice(model, SKIP.build(model), error="keep", exclude=[int(data[0, 0])]) as spliced:
        index = int(capture(spliced, data).values["features", 1].indices[0])
        theirs, there = (
            cached(spliced, data, "blocks.1.mlp.hook_post")[..., index],
            data != data[0, 0],
        )
        expected = float((theirs * there).sum() / there.sum())
        asked: dict[str, Any] = {"receivers": ["logits"], "metric": last}
        found = [
            tlt.path_patch(spliced, BASE, senders={Feature(1, index): record}, **asked).effect
            for record in (
                tlt.Mean(data, per_position=False),
                tlt.Set(expected),
                tlt.Set(expected, at=slice(1, None)),
            )
        ]
        assert (BASE[:, 0] == data[0, 0]).all()
        torch.testing.assert_close(found[0], found[1])
        torch.testing.assert_close(found[1], found[2])
        with pytest.raises(tlt.errors.ConfigError, match=r"f1\.3@0: got positions that the splice"):
            tlt.path_patch(spliced, BASE, SOURCE, senders=[Feature(1, 3, 0)], **asked)


def test_a_mean_lasts_while_a_sequence_grows_and_one_per_position_ends() -> None:
    model = RAW[0].build()
    with splice(model, SKIP.build(model)) as spliced:
        longer = torch.cat([BASE, BASE[:, 1:4]], dim=1)
        plain = spliced.host.logits(longer)
        with tlt.intervening(spliced, {Mlp(1): tlt.Mean(DATA)}):
            ending = spliced.host.logits(longer)
        with tlt.intervening(spliced, {Mlp(1): tlt.Mean(DATA, per_position=False)}):
            lasting = spliced.host.logits(longer)
        mean = cached(spliced, DATA, "blocks.1.hook_mlp_out")
        by_hand = tlt.intervene(spliced, longer, {Mlp(1): tlt.Set(mean.mean((0, 1)))})
        first = {Mlp(1, pos): tlt.Set(mean[:, pos].mean(0)) for pos in range(7)}
        ended = tlt.intervene(spliced, longer, first)
    torch.testing.assert_close(lasting, by_hand.logits, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ending, ended.logits, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(lasting, plain, atol=1e-4)


VALUES: list[Any] = [
    tlt.Ablate(),
    tlt.Scale(2.0),
    tlt.Set(1.5),
    tlt.Patch(SOURCE),
    tlt.Patch(SOURCE[:1]),
    tlt.Mean(DATA),
    tlt.Mean(DATA, per_position=False),
]


@every_raw_host
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_sweep_with_a_value_is_path_patching_one_sender_at_a_time(host: Host, value: Any) -> None:
    model = host.build()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        base = capture(spliced, BASE)
        asked: dict[str, Any] = {"receivers": ["a2.h1<q>@-1", "f2.5"], "metric": last}
        families = [AllHeads([0, 1]), ActiveFeatures([1])]
        swept = sweep(spliced, base, senders=families, value=value, **asked)
        assert swept.source is None
        for node in swept.nodes[1::9]:
            one = tlt.path_patch(spliced, base, senders={node: value}, **asked)
            row = swept.effects[swept.nodes.index(node)]
            torch.testing.assert_close(row, one.effect, atol=1e-5, rtol=1e-4)
        active = {int(i) for i in base.values["features", 1].indices}
        changed = {node.index for node in swept.nodes if isinstance(node, Feature)}
        assert changed <= active or isinstance(value, tlt.Patch | tlt.Mean)
        if isinstance(value, tlt.Ablate):
            assert changed == active


@pytest.mark.parametrize("host", [h for h in RAW if h.architecture == "gemma3"], ids=case_id)
@pytest.mark.parametrize("preset", ["edge", "wang", "linear"])
def test_a_whole_mlp_sends_what_its_post_norm_wrote(host: Host, preset: Any) -> None:
    model = host.build()
    kind = Kind("two-layers", TopK(5), layers=(0, 2))
    with splice(model, kind.build(model), error="keep") as spliced:
        for receivers in ([Feature(2, 5)], [Head(2, 0, "k")]):
            fast = tlt.path_patch(
                spliced,
                BASE,
                SOURCE,
                senders=[Mlp(1)],
                receivers=receivers,
                metric=last,
                freeze=preset,
            )
            slow = live_path_patch(spliced, BASE, SOURCE, [Mlp(1)], receivers, last, freeze=preset)
            torch.testing.assert_close(fast.effect, slow, **CLOSE)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("no source", {"senders": ["a0.h1"]}, r"source: got None, and senders without a value"),
    ("no record", {"senders": {"a0.h1": 0.0}}, r"a0\.h1: got 0\.0; expected Set, Add, Scale, Ablate, Patch or Mean"),
    ("strengths", {"senders": {"a0.h1": tlt.Scale(torch.ones(4))}}, r"a0\.h1: got 4 strengths; expected one value"),
    ("width", {"senders": {"a0.h1": tlt.Set(torch.ones(3))}}, r"a0\.h1, Set: got shape \(3,\)"),
    ("twice", {"senders": {"f0.3": tlt.Ablate(), "f0.3@2": tlt.Ablate()}}, r"f0\.3@2: got a node beside f0\.3; expected every node once"),
    ("position twice", {"senders": {"f0.3@2": tlt.Ablate(at=slice(1, 3))}}, r"f0\.3@2: got a position and at="),
    ("data of another length", {"senders": {"a0.h1": tlt.Mean(DATA[:, :5])}}, r"Mean: got source tokens \(11, 5\) for prompts \(3, 7\)"),
    ("padded data", {"senders": {"a0.h1": tlt.Mean(torch.full((2, 7), 52))}}, r"Mean: got prompts with padding"),
    ("source errors", {"freeze": Freeze(errors="source")}, r'Freeze\.errors: got "source" without a source run'),
]  # fmt: skip


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_values_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    model = RAW[0].build()
    ablated: dict[str, Any] = {"senders": {"a0.h1": tlt.Ablate()}}
    asked = {**ablated, "receivers": ["f2.3"], "metric": last, **change}
    with (
        splice(model, SKIP.build(model)) as spliced,
        pytest.raises(tlt.errors.TLTranscodersError, match=message),
    ):
        tlt.path_patch(spliced, BASE, **asked)


def test_what_needs_a_source_or_all_positions_says_so() -> None:
    model = RAW[0].build()
    asked: dict[str, Any] = {"receivers": ["logits"], "metric": last}
    with splice(model, SKIP.build(model)) as spliced:
        found = tlt.path_patch(spliced, BASE, senders={"a0.h1": tlt.Ablate()}, **asked)
        with pytest.raises(tlt.errors.ConfigError, match="got a patch without a source run"):
            _ = found.share
        with pytest.raises(tlt.errors.ConfigError, match="sweep: got a value with at="):
            sweep(spliced, BASE, senders=[AllHeads()], value=tlt.Ablate(at=slice(0, 2)), **asked)
        with pytest.raises(tlt.errors.ConfigError, match="source: got None"):
            sweep(spliced, BASE, senders=[AllHeads()], **asked)
