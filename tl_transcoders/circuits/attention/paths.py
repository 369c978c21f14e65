"""Edges split into the paths through heads that make them up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders.circuits.attention.descent import Level, descend
from tl_transcoders.circuits.attention.passage import Passage
from tl_transcoders.circuits.attention.placed import (
    Placed,
    as_nodes,
    first_layer,
    reading,
    written,
)
from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.graphs.nodes import GraphNode, write
from tl_transcoders.circuits.nodes import Head, write_node
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.errors import ConfigError

BEAM: Final = 256


@final
@dataclass(frozen=True, slots=True)
class HeadPath:
    """Heads in order, and the part of an edge that passes through exactly these; none is the residual stream alone."""

    heads: tuple[Head, ...]
    effect: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPaths:
    """The strongest paths of an edge through heads: total = Σ effects + left_out.

    `complete` says that no path was left out of the search, so that these are the strongest of all.
    """

    source: GraphNode
    target: GraphNode
    paths: tuple[HeadPath, ...]
    total: float
    left_out: float
    complete: bool


@torch.no_grad()
def head_path(
    graph: Graph,
    source: GraphNode | str,
    *,
    target: GraphNode | str,
    via: Sequence[Head],
    exact: bool = True,
) -> float:
    """The part of an edge that passes through named heads in this order, everything else frozen.

    Between them it goes through the residual stream and skip connections only where `exact`: parts of all sets of
    heads then sum to the edge. Otherwise heads of other layers may take part too; with one head this is its loading.
    A head with a position passes on what it mixes there alone.

    **Raises:** ConfigError for heads that are not in order, not of the model, or not between the ends of the edge.

    ```python
    head_path(graph, source, target=target, via=[Head(3, 1), Head(7, 0)])
    ```
    """
    passage = Passage.of_graph(graph, "head_path")
    source, target = as_nodes(graph, [source, target], "head_path")
    read, before = reading(passage, target, "head_path")
    _check_order(source, target, before, "head_path")
    _check_via(passage, via, range(first_layer(source), before))
    named = {head.layer: head for head in via}
    sources, like = written(passage, [source], "head_path"), _like(passage)
    first = min(named, default=before)
    x, found = _plus(like.new_zeros(1, *like.shape), sources.at((0, "pre"), like)), 0.0
    for layer in range(before):
        heads, beside = passage.heads[layer], passage.parallel(layer)
        if layer in named:
            mid = heads.write(_only(heads.mix(x), named[layer]))
            x = mid if beside else passage.onward(layer, mid, mid)
        else:
            mid = x if exact else x + heads.write(heads.mix(x))
            mid = _plus(mid, sources.at((layer, "mid"), like) if layer < first else None)
            x = passage.onward(layer, x, mid)
            x = _plus(x, sources.at((layer, "post"), like) if layer < first else None)
        found += _dot(mid, read.at((layer, "mid"), like))
    return found + _dot(x, read.at((before, "pre"), like))


@torch.no_grad()
def head_paths(
    graph: Graph, source: GraphNode | str, *, target: GraphNode | str, k: int = 10, beam: int = BEAM
) -> HeadPaths:
    """The k strongest paths of an edge through heads, each passing exactly through its heads; see `head_path`.

    A beam search from the source up: a path that has come to a layer is worth |what all its continuations do together|,
    and the `beam` best go on. A path whose continuations cancel may be missed: `complete` says whether any was given
    up, `left_out` what the paths not returned do together.

    **Raises:** ConfigError for a node that is no source or no target, or a graph read from a file.

    ```python
    for path in head_paths(graph, source, target=target, k=5).paths:
        print(path.heads, path.effect)
    ```
    """
    check_sizes("head_paths", k=k, beam=beam)
    passage = Passage.of_graph(graph, "head_paths")
    source, target = as_nodes(graph, [source, target], "head_paths")
    read, before = reading(passage, target, "head_paths")
    _check_order(source, target, before, "head_paths")
    levels = list(descend(passage, read, before))[::-1]
    search = HeadSearch(passage, levels, written(passage, [source], "head_paths"), beam)
    found, total = search.run(read), search.total(read)
    paths = tuple(sorted(found, key=lambda path: -abs(path.effect))[:k])
    return HeadPaths(
        source=source,
        target=target,
        paths=paths,
        total=total,
        left_out=total - sum(path.effect for path in paths),
        complete=search.complete,
    )


@final
@dataclass
class HeadSearch:
    """Paths on their way up. The first is the one through no head, which is joined by what the source writes later."""

    passage: Passage
    levels: list[Level]
    sources: Placed
    beam: int
    complete: bool = True
    _taken: list[tuple[Head, ...]] = field(default_factory=lambda: [()])

    def run(self, read: Placed) -> list[HeadPath]:
        """All paths the search ends with."""
        like = _like(self.passage)
        x = _plus(like.new_zeros(1, *like.shape), self.sources.at((0, "pre"), like))
        if not self.levels:
            return [HeadPath((), _dot(x, read.at((0, "pre"), like)))]
        for level in self.levels[:-1]:
            z = self.passage.heads[level.layer].mix(x)
            path, choice = self._chosen(level, x, z)
            self._note(level.layer, path, choice)
            x = self._onward(level.layer, x[path], z[path], choice)
        level = self.levels[-1]
        z = self.passage.heads[level.layer].mix(x)
        worth, alive = self._worth(level, x, z)
        path, choice = alive.nonzero(as_tuple=True)
        self._note(level.layer, path, choice)
        effects = worth[path, choice].tolist()
        return [HeadPath(*pair) for pair in zip(self._taken, effects, strict=True)]

    def total(self, read: Placed) -> float:
        """The whole edge."""
        like = _like(self.passage)
        entering = self.sources.at((0, "pre"), like)
        if entering is None:
            return self._written_from(0)
        first = self.levels[0].pre if self.levels else read.at((0, "pre"), like)
        return _dot(entering, first) + self._written_from(0)

    def _worth(
        self, level: Level, x: Float[Tensor, "n pos d_model"], z: Float[Tensor, "n pos head d_head"]
    ) -> tuple[Float[Tensor, "n choice"], Bool[Tensor, "n choice"]]:
        """What all continuations of every path do together, by head and, as the last choice, past them; and which are there."""
        by_head = torch.einsum("nqhe,qhe->nh", z, level.z[0])
        past = x.flatten(1) @ level.around.flatten()
        past[0] += self._written_from(level.layer)
        alive = torch.cat([z.ne(0).any(3).any(1), x.ne(0).flatten(1).any(1, keepdim=True)], dim=1)
        alive[0, -1] = True
        return torch.cat([by_head, past[:, None]], dim=1), alive

    def _chosen(
        self, level: Level, x: Float[Tensor, "n pos d_model"], z: Float[Tensor, "n pos head d_head"]
    ) -> tuple[Int[Tensor, " kept"], Int[Tensor, " kept"]]:
        """The best paths and their choices, the path through no head first."""
        worth, alive = self._worth(level, x, z)
        worth = worth.abs().masked_fill(~alive, -1)
        worth[0, -1] = torch.inf
        n = int(alive.sum())
        self.complete &= n <= self.beam
        best = worth.flatten().topk(min(n, self.beam)).indices
        return best // worth.shape[1], best % worth.shape[1]

    def _onward(
        self,
        layer: int,
        x: Float[Tensor, "n pos d_model"],
        z: Float[Tensor, "n pos head d_head"],
        choice: Int[Tensor, " n"],
    ) -> Float[Tensor, "n pos d_model"]:
        """The streams behind a layer of paths that go through a head, or past them all."""
        like, n_heads = _like(self.passage), z.shape[2]
        past = (choice == n_heads)[:, None, None]
        own = torch.nn.functional.one_hot(choice, n_heads + 1)[:, None, :n_heads, None]
        mid = torch.where(past, x, self.passage.heads[layer].write(z * own))
        mid[:1] = _plus(mid[:1], self.sources.at((layer, "mid"), like))
        beside = self.passage.parallel(layer)
        out = self.passage.onward(layer, x * past if beside else mid, mid)
        out[:1] = _plus(out[:1], self.sources.at((layer, "post"), like))
        return out

    def _note(self, layer: int, path: Int[Tensor, " n"], choice: Int[Tensor, " n"]) -> None:
        n_heads = self.passage.frame.block(layer).attention.n_heads
        self._taken = [
            self._taken[i] if head == n_heads else (*self._taken[i], Head(layer, head))
            for i, head in zip(path.tolist(), choice.tolist(), strict=True)
        ]

    def _written_from(self, layer: int) -> float:
        """What the source does by what it writes behind the attention of a layer and of those after."""
        like, found = _like(self.passage), 0.0
        for level in self.levels[layer:]:
            found += _dot(level.mid, self.sources.at((level.layer, "mid"), like))
            found += _dot(level.post, self.sources.at((level.layer, "post"), like))
        return found


def _check_order(source: GraphNode, target: GraphNode, before: int, what: str) -> None:
    if first_layer(source) > before:
        raise ConfigError(
            what,
            got=f"{write(source)} -> {write(target)}, which reads before its source has written",
            expected="an edge of the graph",
            do="Choose one of graph.top().",
        )


def _like(passage: Passage) -> Float[Tensor, "pos d_model"]:
    return passage.frame.run.embed[0].to(passage.frame.dtype)


def _plus(x: Tensor, more: Tensor | None) -> Tensor:
    return x if more is None else x + more


def _dot(x: Tensor, g: Tensor | None) -> float:
    return 0.0 if g is None else float((x * g).sum())


def _only(z: Float[Tensor, "n pos head d_head"], head: Head) -> Float[Tensor, "n pos head d_head"]:
    kept = torch.zeros_like(z)
    where = slice(None), slice(None) if head.pos is None else head.pos, head.head
    kept[where] = z[where]
    return kept


def _check_via(passage: Passage, via: Sequence[Head], between: range) -> None:
    n_heads, length = passage.frame.block(0).attention.n_heads, passage.frame.length
    if not isinstance(via, Sequence):
        raise _refusal(repr(via), "a list of heads")
    for head in via:
        if not isinstance(head, Head) or head.reader or not 0 <= head.head < n_heads:
            raise _refusal(repr(head), f"heads 0 to {n_heads - 1} of a layer")
        if head.layer not in between:
            raise _refusal(write_node(head), f"heads of {_layers(between)}, between its ends")
        if head.pos is not None and not 0 <= head.pos < length:
            raise _refusal(write_node(head), f"positions 0 to {length - 1}")
    layers = [head.layer for head in via]
    if layers != sorted(set(layers)):
        written_ = ", ".join(map(write_node, via))
        raise _refusal(written_, "heads in the order of their layers, one of a layer")


def _layers(between: range) -> str:
    return f"layers {between.start} to {between.stop - 1}" if between else "no layer"


def _refusal(got: str, expected: str) -> ConfigError:
    return ConfigError(
        "head_path, via", got=got, expected=expected, do="Write via=[Head(3, 1), Head(7, 0)]."
    )
