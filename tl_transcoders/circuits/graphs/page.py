"""A graph as one static page: an SVG of layers by tokens, with nothing to fetch and nothing to run.

It stands here and not in viz, because `Graph.save_html` calls it and circuits may not import viz.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.graphs.graph_file import beside
from tl_transcoders.circuits.graphs.nodes import OUTSIDE, write
from tl_transcoders.circuits.sizes import check_sizes

if TYPE_CHECKING:
    from tl_transcoders.circuits.graphs.graph import Graph

GAP, ROW, MARGIN, NARROWEST, THICKEST = 14, 64, 110, 72, 5.0
LETTER: Final = 6.7
"""Width of a letter of 11 pixels."""
RAISES, LOWERS = "#2166ac", "#c0432c"
STYLE: Final = f"""
body {{ font: 13px sans-serif; margin: 16px; color: #222; background: #fff }}
svg text {{ font: 11px monospace; fill: #222 }}
.row {{ stroke: #e4e4e4 }} .edge {{ fill: none; stroke-opacity: .45 }} .edge:hover {{ stroke-opacity: 1 }}
.raises {{ stroke: {RAISES} }} .lowers {{ stroke: {LOWERS} }}
.node {{ stroke: #fff }} .feature {{ fill: #444 }} .embed {{ fill: #3a8a4d }} .error {{ fill: #b9b9b9 }} .head {{ fill: #d08a1d }} .outcome {{ fill: #8a4fb0 }}
"""


def write_page(path: Path, graph: "Graph", max_edges: int) -> None:
    """Write the page beside its place first, so that no half-written file ever stands there.

    **Raises:** ConfigError for a number of edges below 1, or a folder that does not exist.
    """
    check_sizes("Graph.save_html", max_edges=max_edges)
    with beside("Graph.save_html", path) as unfinished:
        text = page(graph, max_edges)
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


def page(graph: "Graph", max_edges: int) -> str:
    """The text of the page."""
    drawing = Drawing.of(graph, max_edges)
    flowing = int((~graph.nodes.is_a("bias")[graph.source.long()]).sum())
    legend = (
        f"{len(drawing.places):,} of {len(graph.nodes):,} nodes; the {len(drawing.edges):,} strongest of "
        f"{flowing:,} edges, without those of biases. An edge is as thick as its effect is large: "
        f'<span style="color:{RAISES}">blue raises</span> its target, <span style="color:{LOWERS}">red lowers</span> '
        "it. Point at a dot or an edge to read what it is."
    )
    title = escape("".join(graph.words))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{title}</h1><p>{legend}</p>\n"
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawing.width:.0f}" height="{drawing.height:.0f}">\n'
        + "\n".join(drawing.marks(graph))
        + "\n</svg></body></html>\n"
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Which edges are drawn, strongest last, and where every node of theirs stands."""

    edges: Int[Tensor, " drawn"]
    places: dict[int, tuple[float, float]]
    left: list[float]
    height: float

    @classmethod
    def of(cls, graph: "Graph", max_edges: int) -> "Drawing":
        """The strongest edges, and columns as wide as their fullest cell."""
        (flows,) = (~graph.nodes.is_a("bias")[graph.source.long()]).nonzero(as_tuple=True)
        size = graph.effect[flows].abs()
        edges = flows[size.topk(min(max_edges, len(flows))).indices].flip(0)
        drawn = graph.nodes.is_a("embed") | (graph.weight > 0)
        drawn[graph.target[edges].long()] = True
        drawn[graph.source[edges].long()] = True
        cells = _cells(graph, drawn)
        widths = [float(NARROWEST)] * len(graph.words)
        for (_, pos), nodes in cells.items():
            widths[pos] = max(widths[pos], (len(nodes) + 2) * GAP)
        left = [float(MARGIN)]
        for width in widths:
            left.append(left[-1] + width)
        places = {
            node: (
                left[pos] + widths[pos] / 2 + (i - (len(nodes) - 1) / 2) * GAP,
                _height(graph.n_layers - row),
            )
            for (row, pos), nodes in cells.items()
            for i, node in enumerate(nodes)
        }
        return cls(edges=edges, places=places, left=left, height=_height(graph.n_layers + 2))

    @property
    def width(self) -> float:
        """Of the whole picture."""
        return self.left[-1] + GAP

    def marks(self, graph: "Graph") -> Iterator[str]:
        """The picture from back to front: rows, tokens, edges, nodes."""
        yield from self._rows(graph)
        names = dict(zip(self.places, (_label(graph, node) for node in self.places), strict=True))
        yield from self._edges(graph, names)
        influence = graph.influence()
        kinds = _kinds(graph)
        for node, (x, y) in self.places.items():
            told = f"{names[node]}\ninfluence {float(influence[node]):.3f}"
            if float(graph.activation[node]):
                told += f", activation {float(graph.activation[node]):.3f}"
            yield (
                f'<circle class="node {kinds[node]}" cx="{x:.1f}" cy="{y:.1f}" r="5">'
                f"<title>{escape(told)}</title></circle>"
            )

    def _rows(self, graph: "Graph") -> Iterator[str]:
        rows = ["embedding", *(f"layer {i}" for i in range(graph.n_layers)), "explained"]
        for row, name in enumerate(rows, start=-1):
            y = _height(graph.n_layers - row)
            yield f'<line class="row" x1="{MARGIN}" x2="{self.width:.0f}" y1="{y}" y2="{y}"/>'
            yield f'<text x="8" y="{y + 4}">{name}</text>'
        y = _height(graph.n_layers + 1) + 28
        for i, word in enumerate(graph.words):
            n = int((self.left[i + 1] - self.left[i]) / LETTER) - 1
            shown = _shown(word) if len(_shown(word)) <= n else f"{_shown(word)[: n - 1]}…"
            middle = (self.left[i] + self.left[i + 1]) / 2
            yield f'<text x="{middle:.0f}" y="{y:.0f}" text-anchor="middle">{escape(shown)}</text>'

    def _edges(self, graph: "Graph", names: dict[int, str]) -> Iterator[str]:
        source, target = graph.source[self.edges].tolist(), graph.target[self.edges].tolist()
        effects = graph.effect[self.edges].tolist()
        largest = max(map(abs, effects), default=1.0) or 1.0
        for s, t, effect in zip(source, target, effects, strict=True):
            (x0, y0), (x1, y1) = self.places[s], self.places[t]
            middle = (y0 + y1) / 2
            told = f"{names[s]} → {names[t]}\neffect {effect:+.4g}"
            yield (
                f'<path class="edge {"raises" if effect > 0 else "lowers"}" '
                f'stroke-width="{max(0.3, THICKEST * abs(effect) / largest):.2f}" '
                f'd="M{x0:.1f} {y0:.1f}C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}">'
                f"<title>{escape(told)}</title></path>"
            )


def _cells(graph: "Graph", drawn: Tensor) -> dict[tuple[int, int], list[int]]:
    """The nodes of every row and position; embeddings stand in a row of their own below layer 0."""
    cells: dict[tuple[int, int], list[int]] = {}
    embed = graph.nodes.is_a("embed").tolist()
    rows = zip(graph.nodes.layer.tolist(), graph.nodes.pos.tolist(), strict=True)
    for node, (layer, pos) in enumerate(rows):
        if drawn[node] and pos != OUTSIDE:
            cells.setdefault((-1 if embed[node] else layer, pos), []).append(node)
    return cells


def _height(row: int) -> float:
    return 30.0 + row * ROW


def _kinds(graph: "Graph") -> list[str]:
    """The class in which a node is drawn."""
    found = ["feature"] * len(graph.nodes)
    drawn = {
        "embed": graph.nodes.is_a("embed"),
        "error": graph.nodes.is_a("error", "mlp"),
        "head": graph.nodes.is_a("head"),
        "outcome": graph.weight > 0,
    }
    for kind, which in drawn.items():
        for node in which.nonzero()[:, 0].tolist():
            found[node] = kind
    return found


def _label(graph: "Graph", node: int) -> str:
    """The name of a node, the words it names, and the token it stands at."""
    found = graph.nodes[node]
    pos = int(graph.nodes.pos[node])
    name, label = write(found), graph.label(found)
    return f"{name}{'' if label == name else f' {label}'}, at {_shown(graph.words[pos])}"


def _shown(word: str) -> str:
    """A word whose spaces and breaks can be seen."""
    return repr(word)[1:-1].replace(" ", "·") or "∅"
