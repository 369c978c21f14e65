import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.circuits import strategies
from tests.circuits.strategies import Parts, circuits
from tl_transcoders.circuits import circuit_file
from tl_transcoders.circuits.circuit import Circuit, Edge
from tl_transcoders.circuits.nodes import (
    Embed,
    Error,
    Feature,
    Head,
    Logits,
    Mlp,
    Node,
    parse_node,
    parse_path,
)
from tl_transcoders.errors import ConfigError, TranscoderFormatError


def edge(text: str) -> Edge:
    sender, receiver = parse_path(text)
    return sender, receiver


def circuit(edges: str, scores: dict[str, float] | None = None) -> Circuit:
    def element(text: str) -> Node | Edge:
        return edge(text) if "->" in text else parse_node(text)

    known = {element(text): score for text, score in (scores or {}).items()}
    return Circuit((), [edge(text) for text in edges.split()], scores=known)


# sets


@given(circuits(), circuits())
def test_a_union_is_the_smallest_circuit_that_holds_both(first: Parts, second: Parts) -> None:
    a, b = first.build(), second.build()
    union = a | b
    assert a <= union
    assert b <= union
    assert union.nodes == a.nodes | b.nodes
    assert union.edges == a.edges | b.edges
    assert union.scores == {**a.scores, **b.scores}
    assert a | a == a
    assert a | Circuit() == a


@given(circuits(), st.data())
def test_a_complement_completes(parts: Parts, data: st.DataObject) -> None:
    universe = parts.build()
    edges = (
        data.draw(st.sets(st.sampled_from(sorted(universe.edges, key=repr))))
        if universe.edges
        else set()
    )
    ends = frozenset().union(*edges)
    known = {key: x for key, x in universe.scores.items() if key in ends or key in edges}
    part = Circuit((), edges, scores=known)
    rest = part.complement(universe)
    assert rest | part == universe
    assert not rest.edges & part.edges
    assert rest.nodes & part.nodes <= frozenset().union(*rest.edges)
    assert universe.complement(universe) == Circuit()


@given(circuits(), circuits())
def test_subset(first: Parts, second: Parts) -> None:
    a, b = first.build(), second.build()
    assert (a <= b) == (a.nodes <= b.nodes and a.edges <= b.edges)
    assert (a <= b and b <= a) == ((a.nodes, a.edges) == (b.nodes, b.edges))
    assert hash(a) == hash(Circuit(a.nodes, a.edges))


def test_complement_in_a_universe_that_is_too_small() -> None:
    small = circuit("embed->a0.h0")
    message = "got 2 nodes and edges outside the universe, such as logits; expected a universe that"
    with pytest.raises(ConfigError, match=message):
        (small | circuit("embed->logits")).complement(small)


# parts

WHOLE = circuit(
    "embed->f0.1 f0.1->a1.h0<k> e0->a1.h0<k> a1.h0->f2.5 a1.h1->f2.5 f2.5->logits",
    {"f0.1": -3.0, "e0": 1.0, "a1.h0": 2.0, "f2.5": 2.0, "a1.h1->f2.5": -0.5, "f2.5->logits": 0.25},
)


def names(part: Circuit) -> set[str]:
    return set(part.to_dataframe()["name"])


def test_restricting_keeps_what_lies_between() -> None:
    assert WHOLE.restrict(layers=[0, 2]).edges == {edge("embed->f0.1"), edge("f2.5->logits")}
    assert WHOLE.restrict(kinds=(Feature, Error)).nodes == {Feature(0, 1), Feature(2, 5), Error(0)}
    assert WHOLE.restrict(kinds=(Feature,)).scores == {Feature(0, 1): -3.0, Feature(2, 5): 2.0}
    assert WHOLE.restrict() == WHOLE
    assert WHOLE.where(lambda node: node.pos is not None) == Circuit()


def test_the_best_nodes_and_edges() -> None:
    assert names(WHOLE.top_n(nodes=1)) == names(
        WHOLE.where(lambda n: n not in (Error(0), Head(1, 0), Feature(2, 5)))
    )
    by_sign = WHOLE.top_n(nodes=2, absolute=False)
    assert {n for n in by_sign.nodes if n in WHOLE.scores} == {Head(1, 0), Feature(2, 5)}
    ties = WHOLE.top_n(nodes=2)
    assert {n for n in ties.nodes if n in WHOLE.scores} == {Feature(0, 1), Head(1, 0)}
    assert edge("f2.5->logits") not in WHOLE.top_n(edges=1).edges
    assert edge("a1.h1->f2.5") not in WHOLE.top_n(edges=1, absolute=False).edges
    assert WHOLE.top_n(edges=0).nodes == WHOLE.nodes
    assert WHOLE.top_n(nodes=99, edges=99) == WHOLE


def test_a_threshold() -> None:
    assert {n for n in WHOLE.threshold(nodes=2.0).nodes if n in WHOLE.scores} == {
        Feature(0, 1),
        Head(1, 0),
        Feature(2, 5),
    }
    assert Feature(0, 1) not in WHOLE.threshold(nodes=2.0, absolute=False).nodes
    assert WHOLE.threshold(edges=0.4).edges == WHOLE.edges - {edge("f2.5->logits")}
    assert WHOLE.threshold(nodes=0.0, edges=0.0) == WHOLE


def test_pruning_keeps_what_leads_from_a_source_to_the_logits() -> None:
    assert WHOLE.prune() == WHOLE.where(lambda node: node != Head(1, 1))
    assert WHOLE.prune(sources=[Error(0)]).nodes == {
        Error(0),
        Head(1, 0, "k"),
        Head(1, 0),
        Feature(2, 5),
        Logits(),
    }
    cut = circuit("embed->f0.1 f0.1->m1 a1.h0->logits")
    assert cut.prune() == Circuit()
    assert cut.prune(sources=[Head(1, 0)]).edges == {edge("a1.h0->logits")}


@given(circuits())
def test_pruning_twice_is_pruning_once(parts: Parts) -> None:
    whole = parts.build()
    sources = [*whole.nodes][:3]
    once = whole.prune(sources=sources, heads_per_group=2)
    assert once <= whole
    assert once.prune(sources=sources, heads_per_group=2) == once


@pytest.mark.parametrize(
    ("read", "written", "goes_on"),
    [
        ("a1.h3<k>@4", "a1.h3@6", True),
        ("a1.h3<v>@4", "a1.h3@4", True),
        ("a1.h3<k>@4", "a1.h3@3", False),
        ("a1.h3<q>@4", "a1.h3@6", False),
        ("a1.h3<q>@4", "a1.h3@4", True),
        ("a1.h3<q>@4", "a1.h3", True),
        ("a1.h3<q>", "a1.h3@4", True),
        ("a1.h3<k>@-1", "a1.h3@9", True),
        ("a1.h3<k>", "a1.h2", False),
        ("a1.h3<k>", "a2.h3", False),
        ("a1.kv1<k>", "a1.h3", True),
        ("a1.kv1<v>@4", "a1.h3@3", False),
        ("a1.kv0<v>", "a1.h3", False),
    ],
)
def test_a_path_goes_on_through_a_head(read: str, written: str, goes_on: bool) -> None:
    whole = circuit(f"embed->{read} {written}->logits")
    assert whole.prune(heads_per_group=2) == (whole if goes_on else Circuit())


def test_pruning_needs_a_source_and_the_size_of_groups() -> None:
    with pytest.raises(ConfigError, match="prune: got a circuit without embed or error nodes"):
        circuit("f0.1->logits").prune()
    with pytest.raises(ConfigError, match="Pass heads_per_group=n_heads // n_key_value_heads"):
        circuit("embed->a0.kv0<k>").prune()


# files and tables


@given(parts=circuits())
def test_save_then_load_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, parts: Parts
) -> None:
    whole, path = parts.build(), tmp_path_factory.getbasetemp() / "circuit.json"
    whole.save(path)
    again = Circuit.load(path)
    assert again == whole
    assert {element: str(score) for element, score in again.scores.items()} == {
        element: str(score) for element, score in whole.scores.items()
    }
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_the_file_is_readable_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "circuit.json"
    circuit("f3.1@5->a4.h2<k>@9 embed->f3.1@5", {"f3.1@5": 0.5, "embed->f3.1@5": -1.5}).save(path)
    assert json.loads(path.read_text()) == {
        "format": "tl_transcoders.circuit",
        "version": 1,
        "nodes": {"a4.h2<k>@9": None, "embed": None, "f3.1@5": 0.5},
        "edges": {"embed->f3.1@5": -1.5, "f3.1@5->a4.h2<k>@9": None},
    }


def document(**changes: object) -> str:
    whole = {"format": "tl_transcoders.circuit", "version": 1, "nodes": {}, "edges": {}}
    return json.dumps({**whole, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got no valid JSON"),
        ("\xff", "got no valid JSON"),
        ("[" * 100_000, "got no valid JSON"),
        ("[]", "got a JSON list; expected a JSON object"),
        ('{"nodes": 1, "nodes": 2}', "a key occurs twice"),
        (document(version=2), "version 2; expected format 'tl_transcoders.circuit', version 1"),
        (document(version=True), "version True; expected"),
        (document(format="transcoders"), "format 'transcoders'"),
        (document(colour="red"), "unknown keys 'colour', missing keys"),
        (document(nodes=["embed"]), "nodes: got a JSON list; expected a JSON object"),
        (document(nodes={"x3": None}), "nodes: got 'x3'; expected embed, a4.h2"),
        (document(nodes={"f03.1": None}), "nodes: got 'f03.1'; expected its usual form 'f3.1'"),
        (document(nodes={"f3." + "9" * 5000: 1}), "nodes: got 'f3.999"),
        (document(edges={"embed": 1}), "edges: got 'embed'; expected two nodes or more"),
        (document(edges={"embed->m0->m1": 1}), "edges: got 'embed->m0->m1'; expected two nodes"),
        (document(edges={"logits->m0": 1}), "edge logits->m0: got nothing that writes"),
        (document(nodes={"embed": "1"}), "embed: got score '1'; expected a finite number or null"),
        (document(nodes={"embed": True}), "got score True"),
        (document(nodes={"embed": float("nan")}), "got score nan"),
        (document(nodes={"embed": 10**400}), "got score 10000"),
        (document(nodes={"embed": [1]}), "got score list"),
    ],
)
def test_a_file_that_holds_no_circuit(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "circuit.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TranscoderFormatError, match=message) as caught:
        Circuit.load(path)
    assert str(caught.value).startswith("circuit.json")
    assert len(str(caught.value)) < 400


def test_a_file_of_any_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_file, "MAX_BYTES", 100)
    WHOLE.save(tmp_path / "circuit.json")
    with pytest.raises(TranscoderFormatError, match="bytes; expected at most 100 bytes"):
        Circuit.load(tmp_path / "circuit.json")


def test_as_a_graph() -> None:
    graph = WHOLE.to_networkx()
    assert set(graph.nodes) == WHOLE.nodes
    assert set(graph.edges) == WHOLE.edges
    assert graph.nodes[Feature(0, 1)] == {"text": "f0.1", "score": -3.0}
    assert graph.edges[edge("embed->f0.1")] == {}
    assert list(graph.successors(Feature(2, 5))) == [Logits()]


def test_as_a_table() -> None:
    table = WHOLE.to_dataframe().set_index("name")
    assert len(table) == len(WHOLE)
    assert table.loc["a1.h0<k>", "kind"] == "Head"
    assert table.loc["f0.1", ["layer", "score"]].tolist() == [0, -3.0]
    assert table.loc["f0.1->a1.h0<k>", ["sender", "receiver"]].tolist() == ["f0.1", "a1.h0<k>"]
    assert list(Circuit().to_dataframe().dtypes) == list(WHOLE.to_dataframe().dtypes)


# what no circuit can be


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("logits->m0", "nothing that writes"),
        ("a1.h0<q>->m1", "nothing that writes"),
        ("a1.kv0<k>->m1", "nothing that writes"),
        ("m0->embed", "embed as receiver"),
        ("m0->m0", "a node that sends to itself"),
    ],
)
def test_what_is_no_edge(text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"edge {text}: got {fault}"):
        circuit(text)


def test_scores_are_finite_and_of_the_circuit() -> None:
    with pytest.raises(ConfigError, match="score of m0: got nan; expected a finite number"):
        Circuit([Mlp(0)], scores={Mlp(0): float("nan")})
    with pytest.raises(ConfigError, match="score of embed: got no such node or edge"):
        Circuit([Mlp(0)], scores={Embed(): 1.0})


@given(strategies.edges)
def test_the_ends_of_an_edge_are_nodes(pair: Edge) -> None:
    assert Circuit(edges=[pair]).nodes == frozenset(pair)
