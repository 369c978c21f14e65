"""From what senders become to what receivers read, and from what receivers become to the metric."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.nodes import Logits, Node
from tl_transcoders.circuits.patching.edits import Edit, Edits
from tl_transcoders.circuits.patching.freeze import ErrorPolicy, Freeze
from tl_transcoders.circuits.patching.respond import Place, Responder, place_of
from tl_transcoders.splice.trace.forward import Forward, Rows, Spot
from tl_transcoders.splice.trace.run import Run

Arrived = dict[Place, Float[Tensor, "row pos d_model"]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """Steps of a patch in some rows of a base run.

    `errors` is what errors are wherever something is computed again; `source` serves errors="source".
    """

    run: Run
    rows: Rows
    freeze: Freeze
    errors: ErrorPolicy
    source: Run | None = None

    @property
    def replays(self) -> bool:
        """Whether what is computed again is what it was in the base run, where nothing changes."""
        return self.errors not in ("zero", "source")

    def arrive(self, edits: Sequence[Edit], receivers: Iterable[Node]) -> Arrived:
        """What receivers read when senders are edited and heads keep their base values."""
        places = {place_of(node, self.run) for node in receivers}
        last = self.run.model.n_layers
        seen: Arrived = {}
        put = self._edits(edits)

        def visit(spot: Spot, layer: int, value: Any) -> Any:
            value = put(spot, layer, value)
            if (spot, layer) in places:
                seen[spot, layer] = value
            return value

        start = min(edit.layer for edit in edits)
        stop = max(min(layer + 1, last) for _, layer in places)
        forward, at = self._forward(visit, between=True), start
        x = self.rows.of(self.run.entering(start))
        for first, behind in self._stretches(edits, places, start, stop):
            x = forward.run(self._carry(x, at, first), start=first, stop=behind)
            at = behind
        x = self._carry(x, at, stop)
        if ("logits_in", last) in places:
            seen["logits_in", last] = x
        return seen

    def answer(self, receivers: Iterable[Node], arrived: Arrived) -> list[Edit]:
        """What receivers other than logits become."""
        responder = Responder(run=self.run, rows=self.rows, freeze=self.freeze)
        return [
            edit
            for node in receivers
            if not isinstance(node, Logits)
            for edit in responder.edits(node, arrived[place_of(node, self.run)])
        ]

    def as_senders(self, edits: Sequence[Edit]) -> list[Edit]:
        """What edited receivers write: new queries, keys and values become what their heads mix."""
        readers = [edit for edit in edits if edit.spot in ("q", "k", "v")]
        others = [edit for edit in edits if edit.spot not in ("q", "k", "v")]
        layers = sorted({edit.layer for edit in readers})
        return [
            *others,
            *(self._mixed([e for e in readers if e.layer == layer]) for layer in layers),
        ]

    def live(self, edits: Sequence[Edit]) -> Float[Tensor, "row pos d_model"]:
        """The last residual stream when everything after the edited receivers runs."""
        forward = self._forward(self._edits(edits))
        start = min((edit.layer for edit in edits), default=0)
        return forward.run(self.rows.of(self.run.entering(start)), start=start)

    def _stretches(
        self, edits: Sequence[Edit], places: set[Place], start: int, stop: int
    ) -> list[tuple[int, int]]:
        """Where blocks must run; those left out only add what they added in the base run."""
        if not self.freeze.mlps:
            return [(start, stop)]
        model, edited = self.run.model, {edit.layer for edit in edits}
        busy = {*edited, *(layer for _, layer in places), *model.saes}
        for layer, swap in model.swaps.items():
            if swap.W_skip is not None or edited & set(swap.sources):
                busy.add(layer)
        return [(layer, layer + 1) for layer in range(start, stop) if layer in busy]

    def _carry(self, x: Tensor, start: int, stop: int) -> Tensor:
        """What x becomes when the blocks from start to stop add what they added in the base run."""
        if start == stop:
            return x
        change = x - self.rows.of(self.run.entering(start))
        return self.rows.of(self.run.entering(stop)) + change

    def _mixed(self, edits: list[Edit]) -> Edit:
        layer = edits[0].layer
        channels = [edit.channels for edit in edits if edit.channels is not None]
        heads = torch.cat(channels, dim=1)
        positions = torch.arange(
            min((int(p) for edit in edits for p in edit.positions), default=self.run.shape[1]),
            self.run.shape[1],
            device=heads.device,
        )
        z = self._forward(self._edits(edits)).z(
            layer, self.rows.of(self.run.values["resid_pre", layer])
        )
        base = self.rows.of(self.run.values["z", layer])
        index = heads[:, None, :, None].expand(-1, z.shape[1], -1, z.shape[3])
        value, before = (t.gather(2, index)[:, positions - self.rows.first] for t in (z, base))
        return Edit(
            spot="z", layer=layer, positions=positions, value=value, base=before, channels=heads
        )

    def _edits(self, edits: Sequence[Edit]) -> Edits:
        return Edits(edits, first=self.rows.first, length=self.run.shape[1])

    def _forward(self, visit: Any, *, between: bool = False) -> Forward:
        errors_of = self.source if self.errors == "source" else None
        return self.run.forward(
            rows=self.rows,
            attention=between,
            mlps=between and self.freeze.mlps,
            gains=between and self.freeze.gain,
            errors="freeze" if self.errors == "source" else self.errors,
            errors_of=errors_of,
            visit=visit,
        )


def at_logits(
    receivers: Iterable[Node],
    x: Float[Tensor, "row pos d_model"],
    base: Float[Tensor, "row pos d_model"],
    positions: Int[Tensor, "*row pos"],
) -> Float[Tensor, "row pos d_model"]:
    """What the logits among the receivers get: x at the positions they stand for, elsewhere what they had."""
    wanted = [node.pos for node in receivers if isinstance(node, Logits)]
    if None in wanted:
        return x
    here = torch.isin(positions, torch.tensor(wanted, device=x.device))
    return torch.where(here[..., None], x, base)
