"""Nodes taken away from a run, one at a time, to see what becomes of targets."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.circuits.graphs.readers import directions
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, Mlp
from tl_transcoders.hosts import Norm, quiet
from tl_transcoders.splice.trace.forward import FeatureChange, Forward, Rows, Spot
from tl_transcoders.splice.trace.run import Run
from tl_transcoders.splice.trace.swap import Features, sparse
from tl_transcoders.transcoders import SparseFeatures

Removable = Embed | Feature | Error | Mlp | Head


@final
@dataclass
class Removal:
    """Nodes of a run on one prompt, one to remove in every row, and the targets to read in all rows.

    Everything else is frozen: patterns, scales, features, errors and MLPs; in a `live` one nothing is.
    `held` are heads that keep what they mix in the run, row by row, where they are not removed.
    """

    run: Run
    nodes: tuple[Removable, ...]
    targets: NodeTable
    held: tuple[tuple[Head, ...], ...] = ()
    live: bool = False
    _changes: list[tuple[Int[Tensor, " n"], Tensor]] = field(default_factory=list)
    _stream: Tensor = field(default_factory=lambda: torch.empty(0))

    def run_all(self) -> Float[Tensor, "removed target"]:
        """By how much every target's pre-activation changes."""
        run, frame = self.run, Frame.of(self.run)
        forward, embed = self._forward(frame)
        with quiet(run.spliced.host):
            forward.visit("logits_in", frame.n_layers, forward.run(embed))
        found = frame.run.embed.new_zeros(len(self.nodes), len(self.targets), dtype=frame.dtype)
        for which, change in self._changes:
            found[:, which] = change
        return found

    def entering(self, layer: int) -> Float[Tensor, "removed pos d_model"]:
        """By how much the stream that enters a block changes."""
        forward, embed = self._forward(Frame.of(self.run))
        with quiet(self.run.spliced.host):
            return forward.run(embed, stop=layer) - self.run.entering(layer)

    def _forward(self, frame: Frame) -> tuple[Forward, Float[Tensor, "removed pos d_model"]]:
        """The pass, and what enters it."""
        run = self.run
        example = torch.zeros(len(self.nodes), dtype=torch.long, device=run.tokens.device)
        frozen, visit = not self.live, self._visit(frame)
        errors = "freeze" if frozen else "live"
        rows = Rows(example)
        forward = run.forward(rows=rows, mlps=frozen, gains=frozen, errors=errors, visit=visit)
        return forward, run.embed[example]

    def _visit(self, frame: Frame) -> Any:
        def visit(spot: Spot, layer: int, value: Any) -> Any:
            match spot:
                case "embed":
                    return self._without(Embed, 0, value, self.run.embed)
                case "resid_pre":
                    self._stream = value
                case "v" if not self.live:
                    block = frame.block(layer)
                    scale = self._scale(block.ln1, self.run.values["resid_pre", layer])
                    return block.attention.v(block.ln1(self._stream, scale))
                case "pattern" if not self.live:
                    return self.run.values["pattern", layer].expand_as(value)
                case "z":
                    return self._mixed(layer, value)
                case "features":
                    return self._silenced(layer, value) if self.live else self._fewer(layer, value)
                case "error" | "mlp_raw":
                    kind = Error if spot == "error" else Mlp
                    return self._without(kind, layer, value, self.run.values[spot, layer])
                case "mlp_in" | "logits_in":
                    self._read(frame, layer, value)
                case _:
                    pass
            return value

        return visit

    def _scale(self, norm: Norm, base: Tensor) -> Float[Tensor, "removed pos 1"]:
        """The norm's σ in the run, for every row."""
        return norm.scale(base).expand(len(self.nodes), -1, -1)

    def _here(self, kind: type[Removable], layer: int) -> Iterator[tuple[int, Removable]]:
        for row, node in enumerate(self.nodes):
            if isinstance(node, kind) and (isinstance(node, Embed) or node.layer == layer):
                yield row, node

    def _without(self, kind: type[Removable], layer: int, value: Tensor, base: Tensor) -> Tensor:
        """A copy in which nodes of a kind have written nothing."""
        value = value.clone()
        for row, node in self._here(kind, layer):
            assert isinstance(node, Embed | Error | Mlp)
            value[row, node.pos] -= value[row, node.pos] if self.live else base[0, node.pos]
        return value

    def _mixed(
        self, layer: int, z: Float[Tensor, "removed pos head d_head"]
    ) -> Float[Tensor, "removed pos head d_head"]:
        """z of the heads of a layer, some of them held and some removed."""
        base, z = self.run.values["z", layer][0], z.clone()
        for row, heads in enumerate(self.held):
            for head in heads:
                if head.layer == layer:
                    where = slice(None) if head.pos is None else head.pos, head.head
                    z[(row, *where)] = base[where]
        for row, node in self._here(Head, layer):
            assert isinstance(node, Head)
            z[row, node.pos, node.head] = 0
        return z

    def _fewer(self, layer: int, nothing: FeatureChange) -> FeatureChange:
        run, here = self.run, list(self._here(Feature, layer))
        if not here:
            return nothing
        index = torch.zeros(len(self.nodes), 1, dtype=torch.long, device=run.tokens.device)
        delta = run.embed.new_zeros(len(self.nodes), run.shape[1], 1)
        for row, node in here:
            assert isinstance(node, Feature)
            index[row, 0] = node.index
            delta[row, node.pos, 0] = -run.column(layer, node.index)[0, node.pos]
        return FeatureChange(index, delta)

    def _silenced(self, layer: int, features: Features) -> Features:
        """The features as they are now, but for those that are removed."""
        found = sparse(features)
        place, kept = found.rows(), torch.ones_like(found.indices, dtype=torch.bool)
        for row, node in self._here(Feature, layer):
            assert isinstance(node, Feature)
            assert node.pos is not None
            here = row * self.run.shape[1] + node.pos
            kept &= ~((place == here) & (found.indices == node.index))
        return SparseFeatures(found.values * kept, found.indices, found.offsets, found.shape)

    def _read(self, frame: Frame, layer: int, x: Float[Tensor, "removed pos d_model"]) -> None:
        """The change of every target of a layer."""
        (which,) = (self.targets.layer == layer).nonzero(as_tuple=True)
        if not len(which):
            return
        targets = self.targets.take(which)
        swap = frame.swap(layer)
        if layer == frame.n_layers:
            base, norm = self.run.resid_final, frame.anatomy.ln_final
            vectors, read = directions(frame, targets)[0], norm
        else:
            assert swap is not None
            base, block = self.run.values["mlp_in", layer], frame.block(layer)
            vectors = swap.encoder_rows(targets.index)

            def read(x: Tensor, scale: Tensor | None) -> Tensor:
                return swap.read(block, x, scale)

            norm = block.ln2
        scale = None if self.live else self._scale(norm, base)
        change = (read(x, scale) - read(base, None if scale is None else scale[:1])).to(
            frame.dtype
        )[:, targets.pos]
        self._changes.append((which, (change * vectors.to(frame.dtype)).sum(-1)))
