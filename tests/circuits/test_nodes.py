import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.circuits import strategies
from tl_transcoders.circuits.nodes import (
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
    Path,
    at,
    parse_node,
    parse_path,
    write_node,
    write_path,
)
from tl_transcoders.errors import ConfigError

WRITTEN = {
    "embed": Embed(),
    "embed@3": Embed(3),
    "a4.h2": Head(4, 2),
    "a4.h2<q>": Head(4, 2, "q"),
    "a4.h2<k>@9": Head(4, 2, "k", 9),
    "a11.h0<v>@-1": Head(11, 0, "v", -1),
    "a4.kv0<k>": KeyValue(4, 0, "k"),
    "f3.1207": Feature(3, 1207),
    "f3.1207@5": Feature(3, 1207, 5),
    "e3": Error(3),
    "m7@0": Mlp(7, 0),
    "logits": Logits(),
    "logits@-1": Logits(-1),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_the_grammar(text: str) -> None:
    assert parse_node(text) == WRITTEN[text]
    assert write_node(WRITTEN[text]) == text


@given(strategies.nodes)
def test_every_node_round_trips(node: Node) -> None:
    assert parse_node(write_node(node)) == node


@given(st.lists(strategies.nodes, min_size=2, max_size=5).map(tuple))
def test_every_path_round_trips(path: Path) -> None:
    assert parse_path(write_path(path)) == path


@given(st.sets(strategies.nodes, min_size=2, max_size=2))
def test_different_nodes_have_different_texts(two: set[Node]) -> None:
    first, second = two
    assert write_node(first) != write_node(second)


@given(strategies.nodes, strategies.pos)
def test_a_node_at_another_position(node: Node, pos: int | None) -> None:
    moved = at(node, pos)
    assert moved.pos == pos
    assert at(moved, node.pos) == node


@given(st.text() | st.from_regex(r"[aefm]\d*\.?[hk]?v?\d*(<[a-z]>)?(@-?\d*)?", fullmatch=True))
def test_a_text_is_a_node_or_an_error(text: str) -> None:
    try:
        node = parse_node(text)
    except ConfigError:
        return
    assert parse_node(write_node(node)) == node


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f3",
        "f3.",
        "f-3.1",
        "f3.1<q>",
        "a4.h2<x>",
        "a4.kv0",
        "a4.kv0<q>",
        "embed@",
        "f3.1@x",
        "f3.1->e2",
        "f\u0663.1",
        f"f3.{'9' * 5000}",
    ],
)
def test_what_is_no_node(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^node: got .{0,100}; expected embed, a4.h2, a4.h2<q>"):
        parse_node(text)


def test_one_node_is_no_path() -> None:
    with pytest.raises(ConfigError, match=r"path: got 'f3.1'; expected two nodes or more"):
        parse_path("f3.1")
