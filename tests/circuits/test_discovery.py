"""Curves, greedy growth and ACDC: on models whose circuits are known, and by their definitions."""

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from tests.cases import HOSTS, Kind, case_id, only_in_the_whole_table, tokens
from tests.circuits.truth import Truth
from tests.circuits.truths import TRUTHS
from tests.circuits.universe import all_edges
from tl_transcoders.circuits.ablation import Zero, faithfulness
from tl_transcoders.circuits.circuit import Circuit
from tl_transcoders.circuits.discovery import Curve, acdc, curve, greedy
from tl_transcoders.circuits.metrics import KLDivergence
from tl_transcoders.circuits.nodes import Edge, Embed, Head, Logits, parse_path, write_path
from tl_transcoders.splice import splice
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.slow, only_in_the_whole_table]

TWO = Kind("two-layers", TopK(5), layers=(0, 2))
BASE, SOURCE = tokens(seed=1), tokens(seed=2)
QUIET: dict[str, Any] = {"progress": False}


def last(logits: Tensor) -> Tensor:
    return logits[:, -1, 5] - logits[:, -1, 9]


def edge(text: str) -> Edge:
    sender, receiver = parse_path(text)
    return sender, receiver


def edges(text: str) -> frozenset[Edge]:
    return frozenset(edge(part) for part in text.split())


def scored(**scores: float) -> Circuit:
    """`a_b=2` is an edge a->b of score 2, with a0.h0 written a00 and its query a00q."""
    names = {"e": "embed", "o": "logits", "a00": "a0.h0", "a10": "a1.h0", "a10q": "a1.h0<q>", "a10k": "a1.h0<k>",
             "a00v": "a0.h0<v>", "f": "f0.1"}  # fmt: skip
    found = {
        edge("->".join(names[part] for part in key.split("_"))): float(value)
        for key, value in scores.items()
    }
    return Circuit(edges=found, scores=dict(found))


# ACDC

CHAIN = "embed->f0.0 f0.0->a1.kv0<v> a1.h0->f1.0 a1.h0->e1 f1.0->logits e1->logits"
FOUND = {
    "A-linear-chain": CHAIN,
    "A-linear-chain-skip": f"{CHAIN} a1.h0->logits",
    "B-induction": "embed->a0.kv0<v> a0.h0->a1.kv0<k> a1.h0->logits",
    "C-feature-driven-query": "embed->f0.0 f0.0->a1.h0<q> a1.h0->logits",
    # Either input holds the gate shut: the first is tried without effect and removed, the second is then needed.
    "D-and-gate": "embed->f0.1 f0.1->f1.0 f1.0->logits",
    "E-backup": "embed->f0.1 f0.0->f1.0 f0.1->f1.0 f0.0->f1.1 f0.1->f1.1 f1.0->logits f1.1->logits",
    # What embed does to f0.0 reaches the logits twice and cancels.
    "E-cancellation": "f0.0->f1.0 f0.0->logits f1.0->logits",
    "E-softmax-saturation": "embed->f0.0 f0.0->a1.h0<q> a1.h0->logits",
    "E-relu-saturation": "embed->f0.0 f0.0->f1.0 f1.0->logits",
    "E-jumprelu-saturation": "embed->f0.0 f0.0->f1.0 f0.0->e1 f1.0->logits e1->logits",
    "F-rms-norm-balanced": "embed->f0.0 f0.0->logits",
    "F-rms-norm": "embed->f0.0 f0.0->logits",
    "G-grouped-query-attention": "embed->f0.0 embed->f0.1 f0.0->a1.kv0<k> f0.1->a1.kv0<v> a1.h0->logits a1.h1->logits",
    "G-post-norm": "embed->a0.kv0<v> embed->f0.0 a0.h0->logits f0.0->logits",
}


@pytest.mark.parametrize(("truth", "host"), TRUTHS, ids=case_id)
def test_acdc_finds_the_known_edges_among_all(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        base, source = capture(spliced, truth.base_tokens), capture(spliced, truth.source_tokens)
        whole = Circuit(edges=all_edges(base))
        found = acdc(spliced, whole, base, source, metric=truth.metric, threshold=1e-6, **QUIET)
    assert found.edges == edges(FOUND[truth.name])
    known = {edge: x for edge, x in found.scores.items() if write_path_of(edge) in truth.edges}
    single = truth.name not in ("C-feature-driven-query", "D-and-gate", "E-backup")
    assert known
    if single:  # no edge stands in for another, so each has the effect it has alone
        expected = {edge: truth.edges[write_path_of(edge)] for edge in known}
        assert known == {edge: pytest.approx(x, abs=1e-9) for edge, x in expected.items()}


def write_path_of(key: Any) -> str:
    return write_path(key) if isinstance(key, tuple) else ""


@pytest.mark.parametrize("name", ["E-backup", "G-grouped-query-attention"])
def test_edges_tried_together_are_as_if_tried_one_by_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = next(t for t, _ in TRUTHS if t.name == name)
    asked: dict[str, Any] = {"metric": truth.metric, "threshold": 1e-6, "progress": False}
    found = []
    with splice(truth.model("bridge"), truth.plan.transcoders(), error="keep") as spliced:
        base, source = capture(spliced, truth.base_tokens), capture(spliced, truth.source_tokens)
        whole = Circuit(edges=all_edges(base))
        for at_once in (1, 3, 50):
            monkeypatch.setattr(
                import_module("tl_transcoders.circuits.discovery.acdc"), "AT_ONCE", at_once
            )
            found.append(acdc(spliced, whole, base, source, **asked))
    for other in found[1:]:
        assert other.edges == found[0].edges
        assert other.scores == {e: pytest.approx(x) for e, x in found[0].scores.items()}


def test_acdc_with_kl_removes_what_moves_the_distribution_by_less() -> None:
    model = HOSTS[2].build()
    with splice(model, TWO.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        heads = [e for e in all_edges(base) if all(isinstance(n, Embed | Head | Logits) for n in e)]
        kl = KLDivergence(base.logits[:, -1])
        given: dict[str, Any] = {"given": ["m1", 0]}
        none, some = (
            acdc(
                spliced,
                Circuit(edges=heads),
                base,
                source,
                metric=kl,
                threshold=t,
                **given,
                **QUIET,
            )
            for t in (1e9, 1e-6)
        )
        before, after = (
            faithfulness(spliced, c, base, source, metric=kl, **given).circuit
            for c in (Circuit(edges=heads), some)
        )
    assert none == Circuit()
    assert 0 < len(some.edges) < len(heads)
    assert float((after - before).abs().mean()) < 1e-6 * len(heads)


def test_kl_divergence_is_its_definition() -> None:
    p, q = torch.randn(2, 3, 11).log_softmax(-1)
    expected = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    logits = torch.zeros(3, 2, 11)
    logits[:, -1] = q + 7
    torch.testing.assert_close(KLDivergence(p - 2)(logits), expected)
    with pytest.raises(tlt.errors.ShapeError, match="KLDivergence: got reference logits of 5"):
        KLDivergence(torch.zeros(3, 5))(logits)


# curves


def test_a_curve_measures_the_best_of_every_size() -> None:
    model = HOSTS[2].build()
    with splice(model, TWO.build(model), error="keep") as spliced:
        base, source = capture(spliced, BASE), capture(spliced, SOURCE)
        heads = [e for e in all_edges(base) if all(isinstance(n, Embed | Head | Logits) for n in e)]
        ranks = {e: (-1.0) ** i * (i + 1) for i, e in enumerate(sorted(heads, key=write_path))}
        ranked = Circuit(edges=heads, scores=ranks)
        asked: dict[str, Any] = {"metric": last, "given": ["m1"], "ablation": Zero()}
        found = curve(spliced, ranked, base, source, sizes=(1.0, 0.1, 5), **asked)
        signed = curve(spliced, ranked, base, source, sizes=(2, 5), absolute=False, **asked)
        ten = round(0.1 * len(heads))
        for i, n in enumerate(sorted((5, ten, len(heads)))):
            one = faithfulness(spliced, ranked.top_n(edges=n), base, source, **asked)
            torch.testing.assert_close(found.circuits[i], one.circuit, atol=1e-5, rtol=1e-4)
            assert float(found.faithfulness[i]) == pytest.approx(one.faithfulness, abs=1e-4)
        best = ranked.top_n(edges=5, absolute=False)
        one = faithfulness(spliced, best, base, source, **asked)
        by_node = curve(
            spliced, _nodes(ranked), base, source, sizes=(0.5, 1.0), level="node", **asked
        )
    torch.testing.assert_close(signed.circuits[1], one.circuit, atol=1e-5, rtol=1e-4)
    assert found.counts.tolist() == sorted((5, ten, len(heads)))
    assert found.shares[-1] == 1
    assert by_node.counts.tolist() == [3, 6]


def _nodes(circuit: Circuit) -> Circuit:
    heads = {n for n in circuit.nodes if isinstance(n, Head) and n.reader is None}
    return Circuit(heads, scores={head: float(head.layer) for head in heads})


def test_areas_are_trapezoids_and_nothing_is_clamped() -> None:
    found = Curve(
        counts=torch.tensor([1, 2, 4]),
        shares=torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64),
        circuits=torch.tensor([[0.0, 1.0], [3.0, 3.0], [2.0, 2.0]]),
        whole=torch.tensor([2.0, 2.0]),
        empty=torch.tensor([0.0, 0.0]),
    )
    assert found.faithfulness.tolist() == [0.25, 1.5, 1.0]
    assert found.cpr == pytest.approx(0.25 * (0.25 + 1.5) / 2 + 0.5 * (1.5 + 1) / 2)
    assert found.cmd == pytest.approx(0.25 * (0.75 + 0.5) / 2 + 0.5 * 0.5 / 2)
    assert not found.degenerate


def test_a_perfect_ranking_has_the_known_areas() -> None:
    """A: the six known edges first, then decoys: faithful from there on."""
    truth = next(t for t, _ in TRUTHS if t.name == "A-linear-chain")
    with splice(truth.model("bridge"), truth.plan.transcoders(), error="keep") as spliced:
        base, source = capture(spliced, truth.base_tokens), capture(spliced, truth.source_tokens)
        scores = {e: float(e in edges(CHAIN)) for e in all_edges(base)}
        ranked = Circuit(edges=scores, scores=dict(scores))
        found = curve(spliced, ranked, base, source, metric=truth.metric, sizes=(6, 20, 1.0))
    assert found.faithfulness.tolist() == pytest.approx([1, 1, 1])
    assert found.cpr == pytest.approx(1 - 6 / len(scores))
    assert found.cmd == pytest.approx(0, abs=1e-9)


# greedy


def test_greedy_grows_from_the_logits() -> None:
    whole = scored(e_a00v=9, a00_a10q=1, a00_a10k=5, a10_o=3, f_o=-4, e_f=0.5, e_o=0.1)
    taken = [greedy(whole, n).edges for n in range(1, 8)]
    order = "f0.1->logits a1.h0->logits a0.h0->a1.h0<k> embed->a0.h0<v> a0.h0->a1.h0<q> embed->f0.1 embed->logits"
    assert taken == [edges(" ".join(order.split()[:n])) for n in range(1, 8)]
    assert greedy(whole, 100).edges == whole.edges
    assert greedy(whole, 1, absolute=False).edges == edges("a1.h0->logits")
    assert greedy(whole, 2).scores == {edge("f0.1->logits"): -4, edge("a1.h0->logits"): 3}


def test_greedy_leaves_what_does_not_lead_to_the_logits() -> None:
    whole = scored(e_f=9, a00_a10q=5, e_o=1)
    assert greedy(whole, 3).edges == edges("embed->logits")


def test_greedy_goes_through_groups_of_heads() -> None:
    whole = Circuit(
        edges=edges("a1.h1->logits embed->a1.kv0<v>"),
        scores=dict.fromkeys(edges("a1.h1->logits embed->a1.kv0<v>"), 1.0),
    )
    assert greedy(whole, 2, heads_per_group=2) == whole
    assert len(greedy(whole, 2, heads_per_group=1).edges) == 1
    with pytest.raises(tlt.errors.ConfigError, match="Pass heads_per_group"):
        greedy(whole, 2)


# bad input

ONE = Circuit(edges=[(Head(0, 1), Logits())], scores={(Head(0, 1), Logits()): 1.0})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: curve(s, ONE, BASE, SOURCE, metric=last, sizes=()), r"sizes: got \(\); expected two or more"),
        (lambda s: curve(s, ONE, BASE, SOURCE, metric=last, sizes=(1, 2)), r"sizes: got \(1, 2\)"),
        (lambda s: curve(s, ONE, BASE, SOURCE, metric=last, level="node"), "curve: got a circuit in which no node has a score"),
        (lambda s: curve(s, Circuit(), BASE, SOURCE, metric=last), "curve: got a circuit in which no node has a score"),
        (lambda s: curve(s, ONE, BASE, metric=last), r"got Resample\(\) without source"),
        (lambda s: acdc(s, Circuit(), BASE, SOURCE, metric=last, threshold=1.0), "acdc: got a circuit without edges"),
        (lambda s: acdc(s, ONE, BASE, SOURCE, metric=last, threshold=0.0), "threshold: got 0.0"),
        (lambda s: acdc(s, Circuit(edges=edges("a0.h9->logits")), BASE, SOURCE, metric=last, threshold=1.0), "a0.h9: got head 9"),
        (lambda s: greedy(Circuit(edges=ONE.edges), 1), "greedy: got 1 edges without a score, such as a0.h1->logits"),
        (lambda s: greedy(ONE, 0), "n_edges: got 0"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_told(call: Any, message: str) -> None:
    model = HOSTS[0].build()
    with (
        splice(model, TWO.build(model)) as spliced,
        pytest.raises(tlt.errors.TLTranscodersError, match=message),
    ):
        call(spliced)
