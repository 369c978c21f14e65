"""Path patching: against models whose edges are known, its slow twin, and its own laws."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from tests.cases import FEATURES, HOSTS, Host, Kind, case_id, tokens
from tests.circuits.truth import Truth, ends_of
from tests.circuits.truths import TRUTHS
from tl_transcoders.circuits.metrics import LogitDiff
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, KeyValue, Logits, Mlp, Node
from tl_transcoders.circuits.patching import ActiveFeatures, AllHeads, Freeze, sweep
from tl_transcoders.circuits.patching.freeze import PRESETS
from tl_transcoders.circuits.reference import live_path_patch
from tl_transcoders.splice import splice
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

pytestmark = pytest.mark.cases

sweeping = sys.modules["tl_transcoders.circuits.patching.sweep"]  # whose name its function has
RAW = [host for host in HOSTS if not host.processed]
every_raw_host = pytest.mark.parametrize("host", RAW, ids=case_id)
SKIP = Kind("topk-skip", TopK(5), skip=True)
CLT = Kind("clt", TopK(5), cross_layer=True)
KINDS = [
    Kind("relu"),
    SKIP,
    CLT,
    Kind("after-post-norm", TopK(5), skip=True, write="mlp_out"),
    Kind("two-layers", TopK(5), layers=(0, 2)),
    Kind("sae-resid_post", TopK(5), read="resid_post", write="resid_post"),
    Kind("sae-z", TopK(5), read="z", write="z"),
]
IN_FRONT = ("topk-skip", "clt")
every_kind = pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=() if k.name in IN_FRONT else pytest.mark.slow) for k in KINDS],
    ids=case_id,
)
RECEIVERS: list[Node] = [
    Head(2, 1, "q"), Head(2, 1, "k", 4), Head(2, 0, "v"), KeyValue(2, 0, "k"), Feature(2, 5), Logits(),
]  # fmt: skip
BASE, SOURCE = tokens(seed=1), tokens(seed=2)


def last(logits: Tensor) -> Tensor:
    return logits[:, -1, 5] - logits[:, -1, 9]


@pytest.mark.parametrize(("truth", "host"), TRUTHS, ids=case_id)
@pytest.mark.parametrize("preset", ["edge", "linear"])
def test_known_edges_are_found(truth: Truth, host: str, preset: str) -> None:
    expected = dict(truth.edges) | (dict(truth.linear) if preset == "linear" else {})
    freeze = replace(PRESETS[preset], errors="live")
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        base, source = (capture(spliced, t) for t in (truth.base_tokens, truth.source_tokens))
        for text, effect in expected.items():
            senders, receiver = ends_of(text)
            if preset == "linear" and isinstance(receiver, Error):
                continue  # refused: an MLP has no gain of its own
            found = tlt.path_patch(
                spliced,
                base,
                source,
                senders=senders,
                receivers=[receiver],
                metric=truth.metric,
                freeze=freeze,
            )
            assert float(found.effect) == pytest.approx(effect, abs=1e-9), text


@every_raw_host
@pytest.mark.parametrize(
    ("kind", "preset"),
    [
        (CLT, "edge"),
        *(pytest.param(CLT, preset, marks=pytest.mark.slow) for preset in ("wang", "linear")),
        *(pytest.param(SKIP, p, marks=pytest.mark.slow) for p in ("edge", "wang", "linear")),
    ],
    ids=case_id,
)
def test_the_slow_twin_agrees(host: Host, kind: Kind, preset: Any) -> None:
    rng = random.Random(f"{host}{kind}{preset}")
    model = host.build()
    with splice(model, kind.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        for receiver in rng.sample(RECEIVERS, 3):
            senders = rng.sample([Head(0, 1), Feature(0, 3), Error(0), Embed(3), Head(1, 0)], 3)
            fast = tlt.path_patch(
                spliced,
                base,
                source,
                senders=senders,
                receivers=[receiver],
                metric=last,
                freeze=preset,
            )
            slow = live_path_patch(spliced, BASE, SOURCE, senders, [receiver], last, freeze=preset)
            torch.testing.assert_close(fast.effect, slow, atol=3e-5, rtol=2e-3)


def test_logits_at_a_position_receive_there_alone() -> None:
    def everywhere(logits: Tensor) -> Tensor:
        return logits[:, :, 5].sum(1)

    model, senders, receivers = RAW[1].build(), [Head(0, 1), Feature(0, 3)], [Logits(3)]
    with splice(model, SKIP.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        asked: dict[str, Any] = {"receivers": receivers, "metric": everywhere}
        fast = tlt.path_patch(spliced, base, source, senders=senders, **asked).effect
        slow = live_path_patch(spliced, BASE, SOURCE, senders, receivers, everywhere)
        swept = sweep(spliced, base, source, senders=[AllHeads([0])], **asked)
        one = tlt.path_patch(spliced, base, source, senders=[Head(0, 0)], **asked).effect
    torch.testing.assert_close(fast, slow, atol=3e-5, rtol=2e-3)
    torch.testing.assert_close(swept.effects[0], one, atol=1e-5, rtol=1e-4)
    assert fast.abs().max() > 1e-3


def test_the_twin_sees_a_wrong_decoder() -> None:
    model = RAW[1].build()
    transcoders = SKIP.build(model)
    with splice(model, transcoders, error="keep") as spliced:
        index = int(capture(spliced, SOURCE).values["features", 0].indices[0])
        sent: dict[str, Any] = {
            "senders": [Feature(0, index)],
            "receivers": ["logits"],
            "metric": last,
        }
        right = tlt.path_patch(spliced, BASE, SOURCE, **sent).effect
        with torch.no_grad():
            transcoders[0].W_dec[index] *= 1.5
        wrong = tlt.path_patch(spliced, BASE, SOURCE, **sent).effect
    with pytest.raises(AssertionError):
        torch.testing.assert_close(wrong, right, atol=3e-5, rtol=2e-3)


@every_raw_host
@every_kind
def test_all_writers_patched_give_the_source_run(host: Host, kind: Kind) -> None:
    model = host.build()
    with splice(model, kind.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        nodes: list[Node] = [Embed()]
        for layer in range(3):
            nodes += [Head(layer, 0), Head(layer, 1)]
            if layer not in base.model.swaps:
                nodes.append(Mlp(layer))
            if layer in base.model.coders:
                nodes += [Error(layer), *(Feature(layer, i) for i in range(FEATURES))]
        found = tlt.path_patch(
            spliced, base, source, senders=nodes, receivers=["logits"], metric=last
        )
    torch.testing.assert_close(found.effect, found.source - found.base, atol=2e-4, rtol=1e-3)


@every_raw_host
@pytest.mark.parametrize(
    "preset", ["wang", *(pytest.param(p, marks=pytest.mark.slow) for p in ("edge", "linear"))]
)
def test_a_sweep_is_path_patching_one_sender_at_a_time(host: Host, preset: Any) -> None:
    model = host.build()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        for receivers in (["logits"], ["a2.h1<q>@-1"], ["a2.h0<k>", "f2.5"]):
            asked: dict[str, Any] = {"receivers": receivers, "metric": last, "freeze": preset}
            swept = sweep(spliced, base, source, senders=[AllHeads(), ActiveFeatures()], **asked)
            for node in random.Random(0).sample(swept.nodes, 4):
                if receivers != ["logits"] and getattr(node, "layer", 0) >= 2:
                    continue  # not before every receiver, which path_patch would refuse
                one = tlt.path_patch(spliced, base, source, senders=[node], **asked)
                row = swept.effects[swept.nodes.index(node)]
                torch.testing.assert_close(row, one.effect, atol=1e-5, rtol=1e-4)


OTHER_SWEEPS: list[dict[str, Any]] = [
    {"receivers": ["logits"], "metric": LogitDiff(torch.tensor([5, 6, 7]), torch.tensor([9, 8, 4]))},
    {"receivers": ["a2.h0<k>@3", "a2.h1<v>@5"], "metric": last},
    {"receivers": ["a2.h0<k>@3", "f1.5"], "metric": last},  # keys elsewhere follow the feature
    {"receivers": ["a1.h0<v>", "f2.5", "logits"], "metric": last},
    {"receivers": ["e2"], "metric": last, "freeze": Freeze(errors="live")},
    {"receivers": ["a2.h1"], "metric": last, "downstream": "direct"},
    {"receivers": ["a1.h1<q>"], "metric": last, "freeze": Freeze(mlps=False, errors="zero")},
    {"receivers": ["f2.5"], "metric": last, "freeze": Freeze(thresholds=True, errors="source")},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("asked", OTHER_SWEEPS, ids=lambda asked: str(list(asked.values())[::2]))
@pytest.mark.parametrize("budget", [1, sweeping.BUDGET])
def test_sweeps_of_many_passes_and_of_one(
    asked: dict[str, Any], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "BUDGET", budget)
    model = RAW[1].build()
    with splice(model, CLT.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        families = [AllHeads([0, 1]), ActiveFeatures([0])]
        swept = sweep(spliced, base, source, senders=families, **asked)
        assert swept.effects.abs().max() > 1e-4
        for node in swept.nodes[::5]:
            if isinstance(node, Head) and node.layer == 1 and "a1" in asked["receivers"][0]:
                continue  # not before every receiver
            one = tlt.path_patch(spliced, base, source, senders=[node], **asked)
            row = swept.effects[swept.nodes.index(node)]
            torch.testing.assert_close(row, one.effect, atol=1e-5, rtol=1e-4)


def test_effects_have_axes() -> None:
    model = RAW[0].build()
    with splice(model, SKIP.build(model)) as spliced:
        families = [AllHeads([1]), ActiveFeatures([2])]
        swept = sweep(spliced, BASE, SOURCE, senders=families, receivers=["logits"], metric=last)
    for node, effects in zip(swept.nodes, swept.effects, strict=True):
        match node:
            case Head(layer, head):
                assert torch.equal(swept.heads[layer, head], effects)
            case Feature(layer, index):
                assert torch.equal(swept.features(layer)[index], effects)
            case _:
                raise AssertionError(node)
    assert swept.heads.shape == (2, 2, 3)
    assert not swept.heads[0].any()
    assert swept.features(2).count_nonzero() == swept.effects[2:].count_nonzero()
    assert swept.features(1).shape == (0, 3)


@every_raw_host
def test_a_path_is_its_hops(host: Host) -> None:
    """Through a middle feature whose answer is known, the effect is that of sending its answer on."""
    model = host.build()
    with splice(model, Kind("relu").build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        middle = int(base.values["features", 1].indices[0])
        direct = tlt.path_patch(
            spliced,
            base,
            source,
            senders=["embed"],
            via=[[Feature(1, middle)]],
            receivers=["logits"],
            metric=last,
        )
        to_middle = tlt.path_patch(
            spliced,
            base,
            source,
            senders=["embed"],
            receivers=[Feature(1, middle)],
            metric=last,
            downstream="direct",
        )
    torch.testing.assert_close(direct.effect, to_middle.effect, atol=1e-6, rtol=1e-4)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("lengths", {"source": SOURCE[:, :-1]}, r"source: got tokens \(3, 6\); expected those of base, \(3, 7\)"),
    ("order", {"receivers": ["a0.h1<q>"], "senders": ["f2.3"]}, r"a0.h1<q>: got a receiver that no sender comes before"),
    ("no transcoder", {"senders": ["f1.3"]}, r"f1.3: got layer 1, which no transcoder holds; expected one of layers \[0, 2\]"),
    ("feature", {"senders": ["f0.99"]}, r"f0.99: got feature 99; expected a feature from 0 to 36"),
    ("head", {"senders": ["a0.h7"]}, r"a0.h7: got head 7; expected a head from 0 to 1"),
    ("group", {"receivers": ["a1.kv9<k>"]}, r"a1.kv9<k>: got key-value head 9; expected a key-value head from 0 to 1"),
    ("layer", {"senders": ["a8.h0"]}, r"a8.h0: got layer 8; expected a layer from 0 to 2"),
    ("sender after all", {"senders": ["a0.h1", "a2.h0"], "receivers": ["a1.h0<k>"]}, r"a2.h0: got a sender that no receiver comes after"),
    ("receiver that writes", {"receivers": ["embed"]}, r"embed: got a receiver that only writes"),
    ("twice", {"senders": ["a0.h1", "a0.h1"]}, r"a0.h1: got a node beside a0.h1; expected every node once"),
    ("reader of a feature", {"receivers": ["f2.3<q>"]}, r"node: got 'f2.3<q>'"),
    ("position", {"senders": ["a0.h1@7"]}, r"a0.h1@7: got position 7 of prompts of 7 positions"),
    ("sender that reads", {"senders": ["a0.h1<q>"]}, r"a0.h1<q>: got a sender that only reads"),
    ("spliced mlp", {"senders": ["m0"]}, r"m0: got an MLP that is spliced"),
    ("dropped error", {"senders": ["e0"]}, r'e0: got an error in a splice with error="drop"'),
    ("live errors", {"freeze": Freeze(errors="live")}, r'Freeze.errors: got "live" in a splice with error="drop"'),
    ("metric", {"metric": lambda logits: logits.mean()}, r"metric: got shape \(\); expected a tensor \[batch=3\]"),
    ("no senders", {"senders": []}, r"senders and receivers: got no nodes"),
]  # fmt: skip


@contextmanager
def users_hooks(model: Any) -> Iterator[list[str]]:
    """The names of those of the user's hooks that fired, a permanent one among them."""
    fired: list[str] = []
    model.add_hook("blocks.0.hook_attn_out", lambda value, hook: fired.append("passing"))
    model.add_hook(
        "blocks.1.hook_resid_pre", lambda value, hook: fired.append("permanent"), is_permanent=True
    )
    try:
        yield fired
    finally:
        model.reset_hooks(including_permanent=True)


def assert_there(model: Any, fired: list[str]) -> None:
    fired.clear()
    with torch.no_grad():
        model(BASE)
    assert fired == ["passing", "permanent"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_bad_input_is_told(change: dict[str, Any], message: str) -> None:
    model = RAW[0].build()
    asked: dict[str, Any] = {"senders": ["a0.h1"], "receivers": ["f2.3"], "metric": last, **change}
    source = asked.pop("source", SOURCE)
    kind = Kind("two-layers", TopK(5), layers=(0, 2))
    with users_hooks(model) as fired, splice(model, kind.build(model)) as spliced:
        with pytest.raises(tlt.errors.TLTranscodersError, match=message) as caught:
            tlt.path_patch(spliced, BASE, source, **asked)
        told = caught.value
        assert all((told.where, told.got, told.expected, told.do))
        assert_there(model, fired)


@every_raw_host
def test_the_users_hooks_sleep_and_survive(host: Host) -> None:
    model = host.fresh()
    asked: dict[str, Any] = {"senders": ["a0.h1"], "receivers": ["a2.h1<k>"]}

    def stopped(logits: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with users_hooks(model) as fired, splice(model, SKIP.build(model)) as spliced:
        tlt.path_patch(spliced, BASE, SOURCE, metric=last, **asked)
        assert fired == []
        assert_there(model, fired)
        with pytest.raises(KeyboardInterrupt):
            tlt.path_patch(spliced, BASE, SOURCE, metric=stopped, **asked)
        assert_there(model, fired)


@pytest.mark.usefixtures("unchecked")
def test_padding_and_an_unspliced_model_are_told() -> None:
    model = RAW[0].build()
    padded = BASE.clone()
    padded[0, -1] = 52
    with (
        splice(model, SKIP.build(model)) as spliced,
        pytest.raises(tlt.errors.ConfigError, match="got prompts with padding"),
    ):
        tlt.path_patch(
            spliced, padded, SOURCE, senders=["a0.h1"], receivers=["logits"], metric=last
        )
    with pytest.raises(tlt.errors.ConfigError, match="expected a spliced model"):
        tlt.path_patch(model, BASE, SOURCE, senders=["a0.h1"], receivers=["logits"], metric=last)  # pyright: ignore
