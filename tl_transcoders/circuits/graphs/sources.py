"""What writes into the residual stream of a run: embeddings, active features, errors, whole MLPs, and biases."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.nodes import KINDS, NodeTable
from tl_transcoders.splice.trace.swap import Swap

NOTHING: Final = -1


@final
@dataclass(frozen=True, slots=True)
class Active:
    """The active features of a layer, position by position; index NOTHING and value 0 where a position has fewer."""

    index: Int[Tensor, "pos k"]
    value: Float[Tensor, "pos k"]

    @classmethod
    def of(cls, frame: Frame, layer: int) -> "Active":
        """Those of a layer."""
        features = frame.run.values["features", layer]
        kept = features.values != 0
        row, column, value = features.rows()[kept], features.indices[kept], features.values[kept]
        counts = torch.bincount(row, minlength=frame.length)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        index = column.new_full((frame.length, int(counts.max())), NOTHING)
        values = value.new_zeros(index.shape, dtype=frame.dtype)
        index[row, place], values[row, place] = column, value.to(frame.dtype)
        return cls(index, values)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Every source has a slot: position by position, first the embedding, then layer by layer its features and its rest.

    The rest of a layer is its error, or its whole MLP where no transcoder stands. `node[pos slot]` is the number of
    the node in `table`, NOTHING where there is none.
    """

    frame: Frame
    active: dict[int, Active]
    features: dict[int, slice]
    rest: dict[int, int]
    table: NodeTable
    activation: Float[Tensor, " node"]
    node: Int[Tensor, "pos slot"]

    @classmethod
    def of(cls, frame: Frame) -> "Sources":
        """The sources of a run."""
        active = {layer: Active.of(frame, layer) for layer in frame.run.model.swaps}
        features: dict[int, slice] = {}
        rest: dict[int, int] = {}
        rows = [_table(frame, "embed", 0)]
        values = [torch.zeros(frame.length, 1, dtype=frame.dtype)]
        n_slots = 1
        for layer in range(frame.n_layers):
            if layer in active:
                width = active[layer].index.shape[1]
                features[layer] = slice(n_slots, n_slots + width)
                rows.append(_feature_rows(layer, active[layer]))
                values.append(active[layer].value.cpu())
                n_slots += width
            rest[layer] = n_slots
            rows.append(_rest_rows(frame, layer))
            values.append(torch.zeros(frame.length, 1, dtype=frame.dtype))
            n_slots += 1
        every, value = torch.cat(rows, dim=1), torch.cat(values, dim=1)
        there = every[..., 0] != NOTHING
        node = torch.full_like(every[..., 0], NOTHING)
        node[there] = torch.arange(int(there.sum()))
        return cls(
            frame=frame,
            active=active,
            features=features,
            rest=rest,
            table=NodeTable(every[there]),
            activation=value[there],
            node=node,
        )

    def writing(self, layer: int) -> Iterator[tuple[slice, Float[Tensor, "pos k d_model"]]]:
        """What is written into the stream behind the MLP of a layer, and the slots of what wrote it."""
        swap = self.frame.swap(layer)
        rest = self.rest[layer]
        rest_vector = self.frame.pushed(layer, self._rest(layer)[:, None])
        for source in () if swap is None else swap.sources:
            assert swap is not None
            written = self.frame.pushed(layer, self._decoded(swap, source))
            if source == layer:
                rest_vector = torch.cat([written, rest_vector], dim=1)
            else:
                yield self.features[source], written
        yield slice(rest + 1 - rest_vector.shape[1], rest + 1), rest_vector

    def bias(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """What the MLP of a layer adds whatever it reads: biases of the transcoder and of the norms around it."""
        frame, swap = self.frame, self.frame.swap(layer)
        written = torch.zeros_like(frame.value("mlp_raw", layer))
        if swap is not None:
            own = swap.b_dec.to(frame.dtype)
            if swap.W_skip is not None and swap.coder.cfg.read == "mlp_in":
                own = own + (frame.block(layer).ln2.bias @ swap.W_skip).to(frame.dtype)
            written = own * frame.spliced[:, None]
        return frame.pushed(layer, written, bias=True)

    def _decoded(self, swap: Swap, source: int) -> Float[Tensor, "pos k d_out"]:
        found = self.active[source]
        rows = swap.decoder(source)[found.index.clamp(min=0)]
        return rows.to(self.frame.dtype) * found.value[..., None]

    def _rest(self, layer: int) -> Float[Tensor, "pos d_out"]:
        whole = self.frame.value("mlp_raw", layer)
        if self.frame.swap(layer) is None:
            return whole
        error = (
            self.frame.value("error", layer)
            if ("error", layer) in self.frame.run.values
            else torch.zeros_like(whole)
        )
        return torch.where(self.frame.spliced[:, None], error, whole)


def _table(frame: Frame, kind: str, layer: int) -> Int[Tensor, "pos 1 5"]:
    """A node of a kind at every position."""
    rows = torch.zeros(frame.length, 1, 5, dtype=torch.long)
    rows[..., 0], rows[..., 1] = KINDS.index(kind), layer
    rows[..., 2] = torch.arange(frame.length)[:, None]
    return rows


def _feature_rows(layer: int, active: Active) -> Int[Tensor, "pos k 5"]:
    pos, width = active.index.shape
    at = torch.arange(pos).repeat_interleave(width)
    index = active.index.flatten().cpu()
    rows = NodeTable.features(layer, at, index).rows
    return rows.masked_fill(index[:, None] == NOTHING, NOTHING).view(pos, width, 5)


def _rest_rows(frame: Frame, layer: int) -> Int[Tensor, "pos 1 5"]:
    whole, swap = _table(frame, "mlp", layer), frame.swap(layer)
    if swap is None:
        return whole
    there = ("error", layer) in frame.run.values
    error = _table(frame, "error", layer) if there else torch.full_like(whole, NOTHING)
    return torch.where(frame.spliced.cpu()[:, None, None], error, whole)
