"""Paths that end in a target, and what each contributes to it."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from tl_transcoders.circuits.graphs.nodes import Difference, Token, write
from tl_transcoders.circuits.nodes import write_node
from tl_transcoders.circuits.weights.match import Match
from tl_transcoders.circuits.weights.reading import PathNode
from tl_transcoders.circuits.weights.via import Skip


@final
@dataclass(frozen=True, slots=True)
class Passed:
    """A node of a path, and what it contributes to the target by this path.

    `capped` is what the target would lose without it, if every feature behind it can lose no more than it has.
    """

    node: PathNode
    value: float
    capped: float


@final
@dataclass(frozen=True, slots=True)
class Path:
    """Nodes from a source to the target."""

    passed: tuple[Passed, ...]

    @property
    def nodes(self) -> tuple[PathNode, ...]:
        """From the source to the target."""
        return tuple(step.node for step in self.passed)

    @property
    def value(self) -> float:
        """What the source contributes to the target's pre-activation (or logit) by this path."""
        return self.passed[0].value

    @property
    def capped(self) -> float:
        """The same, capped."""
        return self.passed[0].capped

    def __len__(self) -> int:
        return len(self.passed)

    def __str__(self) -> str:
        return " -> ".join(f"{written(step.node)} {step.value:.3g}" for step in self.passed)


@final
@dataclass(frozen=True, slots=True)
class Account:
    """What makes up the first node of a path, in units of the target.

        value = Σ kept + bias + errors + left_out

    `kept` are the nodes that paths go on with, `errors` the errors and whole MLPs that none goes on with, `left_out`
    all else.
    """

    value: float
    kept: float
    bias: float
    errors: float
    left_out: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The strongest paths into a target by their length, `levels[n]` those of n steps; and the accounts of nodes
    expanded, by the nodes from them to the target.

    `gap` is the largest |Σ of all terms − value| of a node expanded, in units of Σ |terms|,
    less what rounding of the stream it reads explains.
    """

    levels: tuple[tuple[Path, ...], ...]
    accounts: dict[tuple[PathNode, ...], Account] = field(repr=False)
    gap: float

    def __iter__(self) -> Iterator[Path]:
        return (path for level in self.levels for path in level)

    def __len__(self) -> int:
        return sum(map(len, self.levels))

    def __str__(self) -> str:
        """One path a line, by length."""
        return "\n".join(str(path) for path in self)

    def starting(self, *pattern: Match) -> "Paths":
        """Those whose first nodes, from the source on, match one by one."""
        return self._kept(lambda nodes: _fits(nodes[: len(pattern)], pattern))

    def through(self, *pattern: Match) -> "Paths":
        """Those that somewhere pass nodes that match, one directly after the other."""
        return self._kept(lambda nodes: _somewhere(nodes, pattern))

    def without(self, *pattern: Match) -> "Paths":
        """Those that nowhere do."""
        return self._kept(lambda nodes: not _somewhere(nodes, pattern))

    def totals(self, *, among: Match | None = None) -> list[tuple[PathNode, float]]:
        """What every node contributes by all paths that start there, the largest |value| first."""
        found: dict[PathNode, float] = defaultdict(float)
        for path in self:
            if len(path) > 1 and (among is None or path.nodes[0] in among):
                found[path.nodes[0]] += path.value
        return sorted(found.items(), key=lambda item: -abs(item[1]))

    def _kept(self, wanted: Callable[[tuple[PathNode, ...]], bool]) -> "Paths":
        levels = tuple(tuple(p for p in level if wanted(p.nodes)) for level in self.levels)
        return replace(self, levels=levels)


def written(node: PathNode) -> str:
    """The text of a node of a path."""
    if isinstance(node, Skip):
        return f"skip{node.layer}" + ("" if node.pos is None else f"@{node.pos}")
    return write(node) if isinstance(node, Token | Difference) else write_node(node)


def _fits(nodes: Sequence[PathNode], pattern: Collection[Match]) -> bool:
    return len(nodes) == len(pattern) and all(
        node in match for node, match in zip(nodes, pattern, strict=True)
    )


def _somewhere(nodes: Sequence[PathNode], pattern: Collection[Match]) -> bool:
    n = len(pattern)
    return any(_fits(nodes[i : i + n], pattern) for i in range(len(nodes) - n + 1))
