"""What a circuit alone does: laws, slow twins and models whose circuits are known."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from tests.cases import (
    HOSTS,
    POS,
    WHOLE_TABLE,
    Host,
    Kind,
    case_id,
    only_in_the_whole_table,
    tokens,
)
from tests.circuits.truth import Truth
from tests.circuits.truths import TRUTHS
from tests.circuits.universe import all_edges, all_nodes
from tl_transcoders.circuits.ablation import Faithfulness, Resample, Zero, faithfulness
from tl_transcoders.circuits.circuit import Circuit
from tl_transcoders.circuits.edits import Mean
from tl_transcoders.circuits.nodes import (
    Edge,
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
    parse_path,
    write_node,
    write_path,
)
from tl_transcoders.circuits.reference_circuits import live_circuit
from tl_transcoders.splice import splice
from tl_transcoders.splice.trace.run import Run, capture
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.slow, only_in_the_whole_table]

RAW = [host for host in HOSTS if not host.processed]
every_raw_host = pytest.mark.parametrize("host", RAW, ids=case_id)
SKIP = Kind("topk-skip", TopK(5), skip=True)
CLT = Kind("clt", TopK(5), cross_layer=True)
TWO = Kind("two-layers", TopK(5), layers=(0, 2))
KINDS = [
    Kind("relu"),
    SKIP,
    CLT,
    Kind("after-post-norm", TopK(5), skip=True, write="mlp_out"),
    TWO,
    Kind("sae-resid_post", TopK(5), read="resid_post", write="resid_post"),
    Kind("sae-z", TopK(5), read="z", write="z"),
]
CASES = [
    (host, kind)
    for i, host in enumerate(RAW)
    for j, kind in enumerate(KINDS)
    if WHOLE_TABLE or (i + j) % 4 == 0
]
KINDS_OF_TWIN = [SKIP, CLT, TWO]
TWIN_CASES = [
    (host, kind)
    for i, host in enumerate(RAW)
    for j, kind in enumerate(KINDS_OF_TWIN)
    if WHOLE_TABLE or (i + j) % 2 == 0
]
cases = pytest.mark.parametrize(("host", "kind"), CASES, ids=case_id)
LEVELS: Any = pytest.mark.parametrize("level", ["node", "edge"])
BASE, SOURCE = tokens(seed=1), tokens(seed=2)
OTHERS = tokens(batch=5, seed=3)
CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-4}
EMPTY = Circuit()


def last(logits: Tensor) -> Tensor:
    return logits[:, -1, 5] - logits[:, -1, 9]


# laws


@cases
@LEVELS
def test_all_is_the_model_and_nothing_is_the_source(host: Host, kind: Kind, level: Any) -> None:
    model = host.build()
    with splice(model, kind.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        nothing = faithfulness(spliced, EMPTY, base, source, metric=last, level=level)
        torch.testing.assert_close(nothing.circuit, last(source.logits), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(nothing.whole, last(base.logits), **CLOSE)
        torch.testing.assert_close(nothing.complement, nothing.whole, **CLOSE)
        for ablation, given in (
            (Resample(), ["embed", 0, Head, Feature, Error, Mlp]),
            (Zero(), ["embed", 0, 1, 2]),
            (Mean(OTHERS), ["embed", 0, 1, 2]),
            (Mean(OTHERS, per_position=False), ["embed", Head, 0, 1, 2]),
        ):
            everything = faithfulness(
                spliced,
                EMPTY,
                base,
                source,
                metric=last,
                level=level,
                ablation=ablation,
                given=given,
            )
            torch.testing.assert_close(everything.circuit, nothing.whole, **CLOSE)
            torch.testing.assert_close(everything.complement, nothing.whole, **CLOSE)


@pytest.mark.parametrize(("host", "kind"), TWIN_CASES, ids=case_id)
def test_a_circuit_of_everything_named_is_the_model(host: Host, kind: Kind) -> None:
    model = host.build()
    with splice(model, kind.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        nodes = faithfulness(spliced, Circuit(all_nodes(base)), base, source, metric=last)
        active = _active(base, source)
        named = [e for e in all_edges(base) if active.issuperset(_features(e))]
        edges = faithfulness(spliced, Circuit(edges=named), base, source, metric=last)
    torch.testing.assert_close(nodes.circuit, nodes.whole, **CLOSE)
    torch.testing.assert_close(nodes.complement, nodes.empty, **CLOSE)
    torch.testing.assert_close(edges.circuit, edges.whole, **CLOSE)


@cases
def test_nodes_left_out_are_patched_or_ablated(host: Host, kind: Kind) -> None:
    """The same by hooks: `intervene` on all nodes outside the circuit."""
    model = host.build()
    with splice(model, kind.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        rng, nodes = random.Random(str(kind)), all_nodes(base)[1:]
        kept = [*rng.sample(nodes, len(nodes) // 2), Head(1, 0)]
        out = [node for node in nodes if node not in kept]
        means, others = Mean(OTHERS, per_position=False), capture(spliced, OTHERS)
        for ablation, edits in (
            (Resample(), dict.fromkeys(out, tlt.Patch(SOURCE))),
            (Zero(), dict.fromkeys(out, tlt.Ablate())),
            (means, {node: tlt.Set(_mean(others, node)) for node in out}),
        ):
            slow = last(tlt.intervene(spliced, BASE, edits).logits)
            fast = faithfulness(
                spliced,
                Circuit(kept),
                base,
                source,
                metric=last,
                ablation=ablation,
                given=["embed"],
            )
            torch.testing.assert_close(fast.circuit, slow, **CLOSE)


@pytest.mark.parametrize(("host", "kind"), TWIN_CASES, ids=case_id)
def test_the_slow_twin_of_edges_agrees(host: Host, kind: Kind) -> None:
    model = host.build()
    with splice(model, kind.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        some = _some_edges(base, source, random.Random(f"{host}{kind}"), kind)
        slow = live_circuit(spliced, BASE, SOURCE, some, last)
        fast = faithfulness(spliced, Circuit(edges=some), base, source, metric=last)
    torch.testing.assert_close(fast.circuit, slow, **CLOSE)
    assert (fast.circuit - fast.empty).abs().max() > 1e-3


def test_the_twin_sees_a_wrong_decoder() -> None:
    model = RAW[1].build()
    transcoders = SKIP.build(model)
    with splice(model, transcoders, error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        some = _some_edges(base, source, random.Random(0), SKIP)
        right = faithfulness(spliced, Circuit(edges=some), base, source, metric=last).circuit
        index = next(n.index for e in some for n in e if isinstance(n, Feature))
        with torch.no_grad():
            transcoders[0].W_dec *= 1.5
        wrong = live_circuit(spliced, BASE, SOURCE, some, last)
    assert index >= 0
    with pytest.raises(AssertionError):
        torch.testing.assert_close(wrong, right, **CLOSE)


EDGES = (
    "a0.h1->a1.h0 a1.h0->logits embed->a2.kv0<v> embed@3->a2.h1<k> embed->a1.h1<q> a0.h0@-1->logits"
)


@cases
def test_one_edge_left_out_is_path_patching_it(host: Host, kind: Kind) -> None:
    model = host.build()
    with splice(model, kind.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        layers = sorted(base.model.coders)
        here, there = layers[0], layers[-1]
        index = int(base.values["features", here].indices[0])
        own: list[Edge] = [(Feature(here, index), Logits()), (Error(here), Logits())]
        if here != there:
            own += [(Error(here), Feature(there, 5)), (Embed(), Error(there))]
        if kind is TWO:
            own += [(Mlp(1), Logits()), (Embed(), Mlp(1))]
        for edge in [*map(parse_path, EDGES.split()), *own]:
            assert len(edge) == 2
            patched = tlt.path_patch(
                spliced,
                base,
                source,
                senders=[edge[0]],
                receivers=[edge[1]],
                metric=last,
                freeze=tlt.Freeze(errors="live"),
            )
            found = faithfulness(spliced, Circuit(edges=[edge]), base, source, metric=last)
            effect = found.complement - found.whole
            torch.testing.assert_close(effect, patched.effect, **CLOSE, msg=write_path(edge))


@every_raw_host
def test_a_group_is_its_heads(host: Host) -> None:
    model = host.build()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        per_group = base.model.anatomy.blocks[2].attention.heads_per_group
        asked: dict[str, Any] = {"metric": last}
        group = Circuit(edges=[(Embed(), KeyValue(2, 0, "v")), (Head(2, 0), Logits())])
        heads = Circuit(
            edges=[*((Embed(), Head(2, h, "v")) for h in range(per_group)), (Head(2, 0), Logits())]
        )
        one, other = (faithfulness(spliced, c, base, source, **asked) for c in (group, heads))
        torch.testing.assert_close(one.circuit, other.circuit, **CLOSE)
        torch.testing.assert_close(one.complement, other.complement, **CLOSE)


@LEVELS
def test_every_position_together_is_the_node(level: Any) -> None:
    model = RAW[1].build()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        index = int(base.values["features", 0].indices[0])
        whole = Circuit(edges=[(Embed(), Feature(0, index)), (Feature(0, index), Logits())])
        apart = Circuit(
            edges={
                edge
                for p in range(POS)
                for edge in (
                    (Embed(), Feature(0, index, p - POS)),
                    (Feature(0, index, p), Logits()),
                )
            }
        )
        one, other = (
            faithfulness(spliced, c, base, source, metric=last, level=level, given=["a1.h0@2"])
            for c in (whole, apart)
        )
    torch.testing.assert_close(one.circuit, other.circuit, **CLOSE)
    torch.testing.assert_close(one.complement, other.complement, **CLOSE)
    assert (one.circuit - one.empty).abs().max() > 1e-3


@LEVELS
@pytest.mark.parametrize("host", RAW[:2], ids=case_id)
def test_errors_are_kept_or_dropped(host: Host, level: Any) -> None:
    model = host.build()
    heads: list[Node] = [Embed(), Head(0, 1), Head(1, 0)]
    edges: list[Edge] = [(Embed(), Head(0, 1)), (Head(0, 1), Head(1, 0)), (Head(1, 0), Logits())]
    own: list[Node] = [Error(layer) for layer in range(3)]
    if level == "edge":
        some = Circuit(edges=edges)
        to = [(n, e) for e in own for n in (*heads, *own) if _before(n, e)]
        out = [(e, n) for e in own for n in (Head(1, 0), Logits(), *own) if _before(e, n)]
        with_errors = Circuit(edges=[*edges, *to, *out])
    else:
        some, with_errors = Circuit(heads), Circuit([*heads, *own])
    transcoders = SKIP.build(model)
    with splice(model, transcoders, error="keep") as spliced:
        asked: dict[str, Any] = {"metric": last, "level": level, "ablation": Resample()}
        kept = faithfulness(spliced, some, BASE, SOURCE, **asked, errors="keep")
        named = faithfulness(spliced, with_errors, BASE, SOURCE, **asked)
        asked["ablation"] = Zero()  # source values would differ between the two splices below
        dropped = faithfulness(spliced, with_errors, BASE, **asked, errors="drop")
        also = faithfulness(spliced, some, BASE, **asked, errors="drop")
    torch.testing.assert_close(kept.circuit, named.circuit, **CLOSE)
    torch.testing.assert_close(dropped.circuit, also.circuit, **CLOSE)
    with splice(model, transcoders, error="drop") as spliced:
        without = faithfulness(spliced, some, BASE, **asked)
    torch.testing.assert_close(without.circuit, dropped.circuit, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(without.complement, dropped.complement, atol=1e-4, rtol=1e-4)


def test_frozen_errors_and_excluded_positions_stay_what_they_are() -> None:
    model = RAW[0].build()
    nodes = Circuit([Embed(), Head(0, 1), Error(1)])
    with splice(model, SKIP.build(model), error="freeze", base=BASE) as spliced:
        found = faithfulness(spliced, nodes, BASE, SOURCE, metric=last, level="node")
        edges = faithfulness(spliced, EMPTY, BASE, SOURCE, metric=last, level="edge")
    torch.testing.assert_close(edges.complement, found.whole, **CLOSE)
    with splice(model, SKIP.build(model), error="keep", exclude="special") as spliced:
        found = faithfulness(spliced, EMPTY, BASE, SOURCE, metric=last)
    torch.testing.assert_close(found.complement, found.whole, **CLOSE)


# models whose circuits are known

LEADS_NOWHERE = {"D-and-gate", "E-backup", "E-cancellation"}
"""Single nodes of these have no effect, or cancel: no ranking by effects finds their circuit."""


@pytest.mark.parametrize(("truth", "host"), TRUTHS, ids=case_id)
@LEVELS
def test_known_circuits_are_faithful_and_complete(truth: Truth, host: str, level: Any) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        base, source = capture(spliced, truth.base_tokens), capture(spliced, truth.source_tokens)
        nodes = [node for node in all_nodes(base) if truth.effects.get(_name(node), 0.0)]
        if level == "edge":
            found = _measure(spliced, base, source, truth, Circuit(edges=_needed(base, truth)))
        else:
            found = _measure(spliced, base, source, truth, Circuit(nodes))
        more = [node for node in all_nodes(base) if truth.effects.get(_name(node)) == 0]
        decoys = _measure(spliced, base, source, truth, Circuit(more)) if more else None
    assert float(found.whole - found.empty) == pytest.approx(-truth.effects["embed"], abs=1e-9)
    if truth.name in LEADS_NOWHERE:
        assert found.degenerate == (truth.name == "E-cancellation")
        return
    assert found.faithfulness == pytest.approx(1, abs=1e-9)
    assert found.completeness == pytest.approx(0, abs=1e-9)
    assert found.inverted == (truth.effects["embed"] > 0)
    if decoys is not None:
        assert decoys.faithfulness == pytest.approx(0, abs=1e-9)


def test_a_gate_needs_both_of_its_inputs() -> None:
    """D: f1.0 = f0.0 AND f0.1 is off in the base run and on in the source run; either input at its base value holds it off."""
    truth = next(t for t, _ in TRUTHS if t.name == "D-and-gate")
    with splice(truth.model("bridge"), truth.plan.transcoders(), error="keep") as spliced:
        base, source = capture(spliced, truth.base_tokens), capture(spliced, truth.source_tokens)
        one = [parse_path(p) for p in ("embed->f0.0", "f0.0->f1.0")]
        both = [*one, *(parse_path(p) for p in ("embed->f0.1", "f0.1->f1.0"))]
        out = parse_path("f1.0->logits")
        alone, pair, whole = (
            _measure(spliced, base, source, truth, Circuit(edges=e))  # pyright: ignore
            for e in (one, both, [*one, out])
        )
    assert alone.completeness == pytest.approx(1)  # the other input holds the gate off as well
    assert pair.completeness == pytest.approx(0)
    assert whole.faithfulness == pytest.approx(1)
    assert whole.completeness == pytest.approx(0)  # nothing else reads the gate


# helpers


def _name(node: Node) -> str:
    return write_node(node)


def _measure(
    spliced: tlt.Spliced, base: Run, source: Run, truth: Truth, circuit: Circuit
) -> Faithfulness:
    return faithfulness(spliced, circuit, base, source, metric=truth.metric)


def _needed(base: Run, truth: Truth) -> list[Edge]:
    """All edges but those that are known to do nothing, between nodes that do something."""
    nodes = {node for node in all_nodes(base) if truth.effects.get(_name(node), 1.0)}
    return [
        (sender, receiver)
        for sender, receiver in all_edges(base)
        if truth.edges.get(write_path((sender, receiver)), 1.0) and sender in nodes
    ]


def _before(first: Node, second: Node) -> bool:
    def depth(node: Node) -> float:
        match node:
            case Embed():
                return -1
            case Logits():
                return 99
            case Head(layer):
                return layer
            case _:
                return getattr(node, "layer", 0) + 0.5

    return depth(first) < depth(second)


def _active(*runs: Run) -> set[Node]:
    """Features that are active in some of the runs."""
    return {
        Feature(layer, int(i))
        for run in runs
        for layer in run.model.coders
        for i in run.values["features", layer].indices.unique()
    }


def _features(edge: Edge) -> set[Node]:
    return {node for node in edge if isinstance(node, Feature)}


def _some_edges(base: Run, source: Run, rng: random.Random, kind: Kind) -> list[Edge]:
    """A random circuit in which the embedding is read and the logits are written to."""
    active = set(rng.sample(sorted(_active(base, source), key=repr), 12))
    edges = [edge for edge in all_edges(base) if active.issuperset(_features(edge))]
    if kind.cross_layer:
        edges = [e for e in edges if not (_features(e) and isinstance(e[1], Error))]
    ends = [e for e in edges if isinstance(e[0], Embed) or isinstance(e[1], Logits)]
    return rng.sample(edges, min(40, len(edges))) + rng.sample(ends, len(ends) // 2)


def _mean(run: Run, node: Node) -> Any:
    match node:
        case Feature(layer, index):
            return float(run.column(layer, index).mean())
        case Head(layer, head):
            return run.values["z", layer][:, :, head].mean((0, 1))
        case Error(layer):
            return run.values["error", layer].mean((0, 1))
        case Mlp(layer):
            value = run.values["mlp_raw", layer].mean((0, 1))
            post = run.model.anatomy.blocks[layer].ln2_post
            return value if post is None else post(value)
        case _:
            raise AssertionError(node)
