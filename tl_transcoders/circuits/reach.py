"""Which nodes lie on a path to the logits."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from tl_transcoders.circuits.nodes import Edge, Head, KeyValue, Logits, Node
from tl_transcoders.errors import ConfigError

Steps = Mapping[Node, Iterable[Node]]


def connected(
    nodes: frozenset[Node],
    edges: frozenset[Edge],
    starts: frozenset[Node],
    heads_per_group: int | None,
) -> frozenset[Node]:
    """The nodes that a start reaches and that reach the logits, through edges and through heads."""
    steps = edges | through_heads(nodes, heads_per_group)
    ends = frozenset(node for node in nodes if isinstance(node, Logits))
    there = _reached(starts, _by_first(steps))
    back = _reached(ends, _by_first((receiver, sender) for sender, receiver in steps))
    return there & back


def through_heads(nodes: frozenset[Node], heads_per_group: int | None) -> frozenset[Edge]:
    """From the inputs of heads to what those heads write; raises ConfigError for a group of heads of unknown size."""
    if heads_per_group is None and any(isinstance(node, KeyValue) for node in nodes):
        raise ConfigError(
            "heads_per_group",
            got="keys or values that a group of heads shares, and None",
            expected="the number of query heads in a group",
            do="Pass heads_per_group=n_heads // n_key_value_heads.",
        )
    writers = defaultdict(list)
    for node in nodes:
        if isinstance(node, Head) and node.reader is None:
            writers[node.layer].append(node)
    return frozenset(
        (node, writer)
        for node in nodes
        if isinstance(node, Head | KeyValue)
        for writer in writers[node.layer]
        if _feeds(node, writer, heads_per_group or 1)
    )


def _feeds(node: Head | KeyValue, writer: Head, heads_per_group: int) -> bool:
    if node.reader is None:
        return False
    same = (
        node.head == writer.head
        if isinstance(node, Head)
        else node.group == writer.head // heads_per_group
    )
    return same and _arrives(node.pos, writer.pos, at_once=node.reader == "q")


def _arrives(read: int | None, written: int | None, *, at_once: bool) -> bool:
    """Whether what is read at one position may be written at the other; from the end and from the start they mix."""
    if read is None or written is None or (read < 0) != (written < 0):
        return True
    return read == written if at_once else read <= written


def _by_first(steps: Iterable[Edge]) -> Steps:
    found = defaultdict(list)
    for first, second in steps:
        found[first].append(second)
    return found


def _reached(starts: frozenset[Node], steps: Steps) -> frozenset[Node]:
    seen, waiting = set(starts), list(starts)
    while waiting:
        for node in steps.get(waiting.pop(), ()):
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return frozenset(seen)
