"""What attribution is asked to tell about."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from tl_transcoders.circuits.attribution.codes import Codebook
from tl_transcoders.circuits.attribution.ledger import Ledger
from tl_transcoders.circuits.checks import check_receiver, normal
from tl_transcoders.circuits.nodes import (
    READERS,
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
    parse_node,
    write_node,
)
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice.trace.run import Run

KINDS: Final[dict[type, tuple[str, ...]]] = {
    Embed: ("embed",), Head: ("head", *READERS), Feature: ("feature",), Error: ("error",), Mlp: ("mlp",),
    Logits: ("logits",),
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Kinds of nodes, receivers of edges, positions."""

    run: Run
    kinds: frozenset[str]
    receivers: tuple[Node, ...] | None
    by_position: bool
    book: Codebook

    @classmethod
    def of(
        cls,
        run: Run,
        kinds: Collection[type[Node]] | None,
        receivers: Sequence[Node | str] | None,
        *,
        by_position: bool,
    ) -> "Wanted":
        """The same, checked; raises ConfigError for a kind that is none, or a receiver that does not read."""
        chosen = tuple(KINDS if kinds is None else [kinds] if isinstance(kinds, type) else kinds)
        unknown = [kind for kind in chosen if kind not in KINDS]
        if unknown or not chosen:
            raise ConfigError(
                "attribute, kinds",
                got=", ".join(map(repr, unknown)) or "none",
                expected=f"some of {', '.join(kind.__name__ for kind in KINDS)}",
                do="Name the kinds of nodes, such as kinds=(tlt.Head, tlt.Feature).",
            )
        nodes = None
        if isinstance(receivers, str) or (receivers is not None and not receivers):
            raise ConfigError(
                "attribute, receivers",
                got=repr(receivers),
                expected="nodes, such as ['logits', 'a5.h1<q>']",
                do="Give a list of them, or leave receivers out.",
            )
        if receivers is not None:
            nodes = tuple(
                normal(parse_node(n) if isinstance(n, str) else n, run.spliced, run.shape[1])
                for n in receivers
            )
            for node in nodes:
                check_receiver(node)
                _check_reads(node, by_position=by_position)
        names = frozenset(name for kind in (*chosen, Logits) for name in KINDS[kind])
        for node in nodes or ():
            _check_told(node, names)
        return cls(
            run=run,
            kinds=names,
            receivers=nodes,
            by_position=by_position,
            book=Codebook.of(run.model),
        )

    def ledgers(self) -> list[tuple[int | None, Tensor, Ledger]]:
        """A position (None: all), its rows, and where the scores of its edges go."""
        batch, length = self.run.shape
        rows = torch.arange(batch * length, device=self.run.tokens.device).view(batch, length)
        if not self.by_position:
            return [(None, rows.flatten(), Ledger(self.book.total, self._codes(None)))]
        return [
            (pos, rows[:, pos], Ledger(self.book.total, self._codes(pos))) for pos in range(length)
        ]

    def _codes(self, pos: int | None) -> Tensor | None:
        if self.receivers is None:
            return None
        here = [node for node in self.receivers if node.pos in (None, pos)]
        return torch.tensor(
            self.book.of_nodes(here), dtype=torch.long, device=self.run.tokens.device
        )


def _check_reads(node: Node, *, by_position: bool) -> None:
    if isinstance(node, Head) and node.reader is None:
        raise ConfigError(
            write_node(node),
            got="a head as receiver, without saying what of it reads",
            expected="a5.h1<q>, a5.h1<k> or a5.h1<v>",
            do="Name its queries, keys or values.",
        )
    if node.pos is not None and not by_position:
        raise ConfigError(
            write_node(node),
            got="a receiver at one position",
            expected="by_position=True",
            do="Ask for positions, or leave the position out.",
        )


def _check_told(node: Node, kinds: frozenset[str]) -> None:
    kind = Head if isinstance(node, KeyValue) else type(node)
    if not kinds & {*KINDS[kind]}:
        raise ConfigError(
            write_node(node),
            got="a receiver of a kind that is left out",
            expected="one of `kinds`",
            do=f"Add {kind.__name__} to kinds, or leave kinds out.",
        )
