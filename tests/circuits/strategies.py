"""Random nodes and circuits."""

from dataclasses import dataclass

from hypothesis import strategies as st

from tl_transcoders.circuits.circuit import Circuit, Edge
from tl_transcoders.circuits.nodes import (
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
)

number = st.integers(0, 10**6)
pos = st.none() | st.integers(-50, 10**4)

embeds = st.builds(Embed, pos)
heads = st.builds(Head, number, number, st.none(), pos)
inputs = st.builds(Head, number, number, st.sampled_from("qkv"), pos)
shared = st.builds(KeyValue, number, number, st.sampled_from("kv"), pos)
features = st.builds(Feature, number, number, pos)
errors = st.builds(Error, number, pos)
mlps = st.builds(Mlp, number, pos)
logits = st.builds(Logits, pos)

senders: st.SearchStrategy[Node] = st.one_of(embeds, heads, features, errors, mlps)
receivers: st.SearchStrategy[Node] = st.one_of(
    heads, inputs, shared, features, errors, mlps, logits
)
nodes: st.SearchStrategy[Node] = st.one_of(embeds, receivers)
scores = st.floats(allow_nan=False, allow_infinity=False)

edges: st.SearchStrategy[Edge] = st.tuples(senders, receivers).filter(lambda e: e[0] != e[1])


@dataclass(frozen=True)
class Parts:
    """What a circuit is made of. The type checker draws random numbers, which a strategy must not."""

    nodes: frozenset[Node]
    edges: frozenset[Edge]
    scores: dict[Node | Edge, float]

    def build(self) -> Circuit:
        return Circuit(self.nodes, self.edges, scores=self.scores)


@st.composite
def circuits(draw: st.DrawFn) -> Parts:
    some, pairs = draw(st.frozensets(nodes, max_size=7)), draw(st.frozensets(edges, max_size=7))
    elements = sorted([*some.union(*pairs), *pairs], key=repr)
    chosen = draw(st.lists(st.sampled_from(elements), unique=True)) if elements else []
    return Parts(some, pairs, {element: draw(scores) for element in chosen})
