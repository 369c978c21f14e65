"""What is left of a metric with a circuit of edges alone, by the definition: slow, and for comparison with what is fast.

Writer by writer: each of its inputs answers, in the source run, to the senders of the edges that end there, which have
the values that came of their own inputs. Every answer is a run of the host.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.nodes import READERS, Edge, Embed, Head, KeyValue, Logits, Node
from tl_transcoders.circuits.reference import (
    Metric,
    PathPatch,
    depth_of,
    place_of,
    put_part,
)
from tl_transcoders.circuits.reference_runs import Place, Put, Runner
from tl_transcoders.splice import Spliced


@torch.no_grad()
def live_circuit(
    spliced: Spliced,
    base: Int[Tensor, "batch pos"],
    source: Int[Tensor, "batch pos"],
    edges: Collection[Edge],
    metric: Metric,
) -> Float[Tensor, " batch"]:
    """The metric when every edge but these carries what its sender is in the source run.

    Edges of nodes without positions, none from a feature of a cross-layer transcoder to an error, which the host
    computes of features before they are edited.

    ```python
    live_circuit(spliced, base, source, [(Embed(), Head(0, 1)), (Head(0, 1), Logits())], metric)
    ```
    """
    runner = Runner(spliced)
    theirs = runner.run(source, {}, runner.everything())[1]
    live = {**theirs, **runner.run(base, {}, [("embed", 0)])[1]}
    answers = PathPatch(runner, source, theirs, live, "edge", "freeze")
    circuit = LiveCircuit(answers, frozenset(edges))
    for writer in sorted({sender for sender, _ in edges}, key=depth_of):
        circuit.compute(writer)
    final = circuit.answer(Logits())
    return metric(runner.run(source, {("final", 0): [lambda _: final]}, [])[0])


@final
@dataclass(frozen=True, slots=True)
class LiveCircuit:
    """Edges, and the values that writers have so far: `answers.theirs`, which `compute` completes."""

    answers: PathPatch
    edges: frozenset[Edge]

    def answer(self, reader: Node) -> Tensor:
        """What a reader becomes by all edges that end there."""
        ends = self._names(reader)
        senders = [sender for sender, receiver in self.edges if receiver in ends]
        return self.answers.response(reader, senders) if senders else self._source(place_of(reader))

    def compute(self, writer: Node) -> None:
        """Give a writer the value that its inputs lead to."""
        if isinstance(writer, Embed):
            return
        place, value = self._mixed(writer) if isinstance(writer, Head) else self._answered(writer)
        live: dict[Place, Tensor] = self.answers.theirs  # pyright: ignore[reportAssignmentType]
        live[place] = put_part(writer, value)(live[place])

    def _answered(self, writer: Node) -> tuple[Place, Tensor]:
        return place_of(writer), self.answer(writer)

    def _mixed(self, head: Head) -> tuple[Place, Tensor]:
        """No hook reaches one query head's copy of the keys: let its whole group have them for a run."""
        edits: dict[Place, list[Put]] = {}
        for reader in READERS:
            channel = head.head if reader == "q" else self._group(head)
            value = self.answer(Head(head.layer, head.head, reader))
            edits[reader, head.layer] = [put_part(Head(head.layer, channel), value)]
        z: Place = ("z", head.layer)
        return z, self.answers.runner.run(self.answers.base, edits, [z])[1][z]

    def _names(self, reader: Node) -> set[Node]:
        """The reader, and the wholes it is part of."""
        if not isinstance(reader, Head) or reader.reader is None:
            return {reader}
        names: set[Node] = {reader, Head(reader.layer, reader.head)}
        if reader.reader != "q":
            names.add(KeyValue(reader.layer, self._group(reader), reader.reader))
        return names

    def _group(self, head: Head) -> int:
        heads, groups = (self._source((part, head.layer)).shape[2] for part in ("z", "k"))
        return head.head * groups // heads

    def _source(self, place: Place) -> Tensor:
        return self.answers.ours[place]
