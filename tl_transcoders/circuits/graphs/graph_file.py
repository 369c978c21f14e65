"""A graph as one safetensors file; what is no tensor is JSON in its header."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_transcoders.circuits.graphs.nodes import KINDS, LARGEST, OUTSIDE, NodeTable
from tl_transcoders.errors import ConfigError, TranscoderFormatError

if TYPE_CHECKING:
    from tl_transcoders.circuits.graphs.graph import Graph

FORMAT: Final = "tl_transcoders.graph"
VERSION: Final = 1
PER_NODE: Final = ("activation", "weight", "value", "left_out")
PER_EDGE: Final = ("target", "source", "effect")
FLOATS: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
PLAIN: Final = ("words", "vocabulary", "n_layers", "errors", "gap")


def write(path: Path, graph: "Graph") -> None:
    """Write it beside its place first, so that no half-written file ever stands there.

    **Raises:** ConfigError where the folder does not exist.
    """
    tensors = {name: getattr(graph, name).contiguous() for name in (*PER_NODE, *PER_EDGE)}
    tensors |= {"tokens": graph.tokens.contiguous(), "nodes": graph.nodes.rows.contiguous()}
    plain = {name: getattr(graph, name) for name in PLAIN}
    header = {"format": FORMAT, "version": str(VERSION), "graph": json.dumps(plain)}
    with beside("Graph.save", path) as unfinished:
        save_file(tensors, unfinished, metadata=header)


@contextmanager
def beside(where: str, path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of another when it is whole, and is gone otherwise.

    **Raises:** ConfigError where the folder does not exist.
    """
    if not path.parent.is_dir():
        raise ConfigError(
            where,
            got=f"{path}",
            expected="a file in a folder that exists",
            do="Make the folder first.",
        )
    if path.is_dir() or not path.name:
        raise ConfigError(
            where, got=f"{path}", expected="a file", do="Give the file a name inside that folder."
        )
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The fields of a graph.

    **Raises:** TranscoderFormatError for a file that is cut short, or holds anything but a graph.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if (header.get("format"), header.get("version")) != (FORMAT, str(VERSION)):
                raise _wrong(path, f"format {header.get('format')!r:.80}", f"{FORMAT!r}, {VERSION}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            plain = json.loads(header.get("graph", "null"))
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        if isinstance(error, TranscoderFormatError):
            raise
        raise _wrong(path, f"{error}", "a graph that was written whole") from error
    _check_plain(path, plain)
    _check_tensors(path, tensors, len(plain["words"]))
    nodes = NodeTable(tensors.pop("nodes").long())
    _check_nodes(path, nodes.rows, plain["n_layers"], len(plain["words"]))
    _check_edges(path, nodes, tensors["source"], tensors["target"])
    words, vocabulary = tuple(plain["words"]), {int(i): w for i, w in plain["vocabulary"].items()}
    parts = {"words": words, "vocabulary": vocabulary, "nodes": nodes, "no_run": "file"}
    return {**tensors, **plain, **parts}


def _check_plain(path: Path, plain: Any) -> None:
    fits = (
        isinstance(plain, dict)
        and plain.keys() == set(PLAIN)
        and isinstance(plain["words"], list)
        and all(isinstance(word, str) for word in plain["words"])
        and isinstance(plain["vocabulary"], dict)
        and all(_is_token(i) and isinstance(w, str) for i, w in plain["vocabulary"].items())
        and type(plain["n_layers"]) is int
        and 0 < plain["n_layers"] < 1 << 31
        and isinstance(plain["gap"], float)
        and plain["errors"] in ("drop", "keep", "freeze")
    )
    if not fits:
        raise _wrong(path, "a header of another shape", f"{', '.join(PLAIN)}")


def _check_tensors(path: Path, tensors: dict[str, Tensor], n_pos: int) -> None:
    expected = {"tokens", "nodes", *PER_NODE, *PER_EDGE}
    if tensors.keys() != expected:
        raise _wrong(path, f"tensors {sorted(tensors)}"[:200], f"{sorted(expected)}")
    n_nodes, n_edges = tensors["nodes"].shape[:1].numel(), tensors["effect"].numel()
    shapes = {"tokens": (n_pos,), "nodes": (n_nodes, 5)}
    shapes |= dict.fromkeys(PER_NODE, (n_nodes,)) | dict.fromkeys(PER_EDGE, (n_edges,))
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise _wrong(path, f"{name} of shape {tuple(tensors[name].shape)}", f"{shape}")
    for name in ("tokens", "nodes", "target", "source"):
        if tensors[name].dtype not in (torch.int64, torch.int32):
            raise _wrong(path, f"{name} of {tensors[name].dtype}", "integers")
    _check_numbers(path, tensors)


def _check_numbers(path: Path, tensors: dict[str, Tensor]) -> None:
    for name in (*PER_NODE, "effect"):
        numbers = tensors[name]
        if numbers.dtype not in FLOATS:
            raise _wrong(path, f"{name} of {numbers.dtype}", "floats of 16 bits or more")
        known = numbers[~numbers.isnan()] if name == "value" else numbers
        if not known.isfinite().all():
            raise _wrong(path, f"{name} with something that is no number", "finite numbers")
    if not _within(tensors["tokens"], 0, LARGEST):
        raise _wrong(path, "tokens below 0", "token ids")
    if (tensors["weight"] < 0).any():
        raise _wrong(path, "weight below 0", "0 or more")


def _check_nodes(path: Path, rows: Tensor, n_layers: int, n_pos: int) -> None:
    kind, layer, pos, index, other = rows.unbind(1)
    if not _within(kind, 0, len(KINDS)):
        raise _wrong(path, "nodes of unknown kinds", f"{', '.join(KINDS)}")
    nodes = NodeTable(rows)
    bias, embed, last = nodes.is_a("bias"), nodes.is_a("embed"), nodes.is_a("token", "difference")
    own_layer = torch.where(bias | last, layer <= n_layers, layer < n_layers)
    own_layer &= (~last | (layer == n_layers)) & (~embed | (layer == 0)) & (layer >= 0)
    if not own_layer.all():
        raise _wrong(path, "nodes of layers that are not there", f"layers 0 to {n_layers - 1}")
    if not _within(pos[~bias], 0, n_pos) or (pos[bias] != OUTSIDE).any():
        raise _wrong(path, "nodes at positions that are not there", f"0 to {n_pos - 1}")
    if not (_within(index, 0, LARGEST) and _within(other, 0, LARGEST)):
        raise _wrong(path, "nodes with a negative index", "features, heads and tokens from 0")
    indexed = last | nodes.is_a("feature", "head")
    if index[~indexed].any() or other[~nodes.is_a("difference")].any():
        raise _wrong(path, "an index of nodes that have none", "0 there")
    if len(rows.unique(dim=0)) < len(rows):
        raise _wrong(path, "nodes that repeat", "every node once")


def _check_edges(path: Path, nodes: NodeTable, source: Tensor, target: Tensor) -> None:
    for ends in (source, target):
        if not _within(ends, 0, len(nodes)):
            raise _wrong(path, "edges of nodes that are not there", f"nodes 0 to {len(nodes) - 1}")
    if not nodes.goes_up(source.long(), target.long()).all():
        raise _wrong(path, "edges that do not go up", "edges to later layers alone")


def _within(values: Tensor, first: int, end: int) -> bool:
    return not len(values) or first <= int(values.min()) <= int(values.max()) < end


def _is_token(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def _wrong(path: Path, got: str, expected: str) -> TranscoderFormatError:
    return TranscoderFormatError(path.name, got=got, expected=expected, do="Save the graph again.")
