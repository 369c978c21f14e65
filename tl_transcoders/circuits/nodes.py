"""The nodes of a circuit, and the grammar in which they are written.

    embed    a4.h2    a4.h2<q>    a4.kv0<k>    f3.1207    e3    m7    logits        each with an optional @position

An edge is two nodes joined by `->`, a path more: `f3.1207@5->a4.h2<k>@9`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, assert_never, final

from tl_transcoders.errors import ConfigError

Reader = Literal["q", "k", "v"]
READERS: Final[tuple[Reader, ...]] = ("q", "k", "v")


@final
@dataclass(frozen=True, slots=True)
class Embed:
    """What enters the first block: token and position embeddings."""

    pos: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Head:
    """An attention head: what it writes, or, with a reader, its query, key or value input."""

    layer: int
    head: int
    reader: Reader | None = None
    pos: int | None = None


@final
@dataclass(frozen=True, slots=True)
class KeyValue:
    """The key or value input that the query heads of a group share."""

    layer: int
    group: int
    reader: Literal["k", "v"]
    pos: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of the transcoder or SAE of a layer."""

    layer: int
    index: int
    pos: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Error:
    """mlp(x) − transcoder(x) of a layer, or x − sae(x)."""

    layer: int
    pos: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Mlp:
    """The whole MLP of a layer."""

    layer: int
    pos: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Logits:
    """The output of the model."""

    pos: int | None = None


Node = Embed | Head | KeyValue | Feature | Error | Mlp | Logits
Path = tuple[Node, ...]
Edge = tuple[Node, Node]
"""A sender and a receiver."""

_FORMS: Mapping[str, Callable[..., Node]] = {
    r"embed": Embed,
    r"logits": Logits,
    r"a(\d+)\.h(\d+)": lambda layer, head, pos: Head(layer, head, None, pos),
    r"a(\d+)\.h(\d+)<([qkv])>": Head,
    r"a(\d+)\.kv(\d+)<([kv])>": KeyValue,
    r"f(\d+)\.(\d+)": Feature,
    r"e(\d+)": Error,
    r"m(\d+)": Mlp,
}
_LONGEST: Final = 80
_GRAMMAR: Final = (
    "embed, a4.h2, a4.h2<q>, a4.kv0<k>, f3.1207, e3, m7 or logits, with an optional @position"
)


def parse_node(text: str) -> Node:
    """The node a text stands for; raises ConfigError where it stands for none.

    ```python
    parse_node("f3.1207@5")
    ```
    """
    for form, build in _FORMS.items():
        found = re.fullmatch(rf"{form}(?:@(-?\d+))?", text.strip(), re.ASCII)
        if found is not None and len(text) <= _LONGEST:
            *parts, pos = found.groups()
            numbers = (int(part) if part.isdigit() else part for part in parts)
            return build(*numbers, None if pos is None else int(pos))
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    raise ConfigError("node", got=repr(shown), expected=_GRAMMAR, do="Correct the node.")


def parse_path(text: str) -> Path:
    """The nodes of `a->b->c`; raises ConfigError where a part is no node, or there is only one."""
    nodes = tuple(parse_node(part) for part in text.split("->"))
    if len(nodes) < 2:
        raise ConfigError(
            "path",
            got=repr(text),
            expected="two nodes or more joined by ->",
            do="Correct the path.",
        )
    return nodes


def write_node(node: Node) -> str:
    """The text of a node: `parse_node(write_node(node)) == node`."""
    at = "" if node.pos is None else f"@{node.pos}"
    match node:
        case Embed():
            return f"embed{at}"
        case Head(layer, head, reader):
            return f"a{layer}.h{head}{f'<{reader}>' if reader else ''}{at}"
        case KeyValue(layer, group, reader):
            return f"a{layer}.kv{group}<{reader}>{at}"
        case Feature(layer, index):
            return f"f{layer}.{index}{at}"
        case Error(layer):
            return f"e{layer}{at}"
        case Mlp(layer):
            return f"m{layer}{at}"
        case Logits():
            return f"logits{at}"
        case _:
            assert_never(node)


def write_path(path: Path) -> str:
    """The text of an edge or path."""
    return "->".join(write_node(node) for node in path)


def at(node: Node, pos: int | None) -> Node:
    """The same node at another position, or at all of them."""
    return replace(node, pos=pos)
