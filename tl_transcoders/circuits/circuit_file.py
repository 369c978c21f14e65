"""A circuit as JSON: nodes and edges in the grammar of `nodes`, each with its score or null."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from tl_transcoders.circuits.nodes import Edge, Node, parse_node, parse_path, write_node, write_path
from tl_transcoders.errors import ConfigError, TranscoderFormatError

FORMAT: Final = "tl_transcoders.circuit"
VERSION: Final = 1
MAX_BYTES: Final = 64 * 2**20
KEYS: Final = frozenset({"format", "version", "nodes", "edges"})

Element = TypeVar("Element", Node, Edge)
Scored = Mapping[Element, float | None]


def write(path: Path, nodes: Scored[Node], edges: Scored[Edge]) -> None:
    """Write nodes and edges with their scores."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "nodes": {write_node(node): score for node, score in nodes.items()},
        "edges": {write_path(edge): score for edge, score in edges.items()},
    }
    path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> tuple[Scored[Node], Scored[Edge]]:
    """The inverse of `write`.

    **Raises:** TranscoderFormatError for a file that is larger than `MAX_BYTES` or holds anything else.
    """
    data = _json(path)
    if not isinstance(data, dict):
        raise _wrong(path.name, got=f"a JSON {type(data).__name__}", expected="a JSON object")
    version = data.get("version")
    if data.get("format") != FORMAT or type(version) is not int or version != VERSION:
        raise _wrong(
            path.name,
            got=f"format {_short(data.get('format'))}, version {_short(version)}",
            expected=f"format {FORMAT!r}, version {VERSION}",
            do="Load it with the version of tl-transcoders that wrote it.",
        )
    if data.keys() != KEYS:
        unknown = _short(", ".join(sorted(data.keys() - KEYS)))
        got = f"unknown keys {unknown}, missing keys {sorted(KEYS - data.keys())}"
        raise _wrong(path.name, got=got, expected=f"exactly {sorted(KEYS)}")
    nodes = _scored(f"{path.name}, nodes", data["nodes"], parse_node, write_node)
    return nodes, _scored(f"{path.name}, edges", data["edges"], _parse_edge, write_path)


def _json(path: Path) -> Any:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise _wrong(path.name, got=f"{size} bytes", expected=f"at most {MAX_BYTES} bytes")
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _wrong(path.name, got=f"no valid JSON ({error})", expected="JSON") from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _scored(
    where: str,
    data: object,
    parse: Callable[[str], Element],
    text: Callable[[Element], str],
) -> dict[Element, float | None]:
    if not isinstance(data, dict):
        raise _wrong(where, got=f"a JSON {type(data).__name__}", expected="a JSON object")
    found = {}
    for name, score in data.items():
        element = _parsed(where, name, parse)
        if text(element) != name:
            raise _wrong(where, got=_short(name), expected=f"its usual form {text(element)!r}")
        found[element] = _score(f"{where}, {name}", score)
    return found


def _parsed(where: str, name: str, parse: Callable[[str], Element]) -> Element:
    try:
        return parse(name)
    except ConfigError as error:
        raise _wrong(where, got=error.got, expected=error.expected) from error


def _parse_edge(text: str) -> Edge:
    path = parse_path(text)
    if len(path) != 2:
        raise ConfigError("edge", got=_short(text), expected="two nodes", do="Correct the edge.")
    return path


def _score(where: str, score: Any) -> float | None:
    if score is None:
        return None
    if type(score) in (int, float) and abs(score) <= sys.float_info.max:
        return float(score)
    raise _wrong(where, got=f"score {_short(score)}", expected="a finite number or null")


def _short(value: object) -> str:
    text = type(value).__name__ if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _wrong(
    where: str, *, got: str, expected: str, do: str = "Save the circuit again."
) -> TranscoderFormatError:
    return TranscoderFormatError(where, got=got, expected=expected, do=do)
