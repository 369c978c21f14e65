"""How a receiver answers to a residual stream that differs from the base run's."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.nodes import (
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
    Reader,
    write_node,
)
from tl_transcoders.circuits.patching.edits import Edit
from tl_transcoders.circuits.patching.freeze import Freeze
from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import Block
from tl_transcoders.splice.trace.forward import Rows, Spot
from tl_transcoders.splice.trace.run import Run
from tl_transcoders.splice.trace.swap import Swap, dense
from tl_transcoders.transcoders import BatchTopK, JumpReLU, ReLU, TopK

Place = tuple[Spot, int]


def place_of(node: Node, run: Run) -> Place:
    """Where a receiver reads the residual stream."""
    match node:
        case Head(layer) | KeyValue(layer):
            return "resid_pre", layer
        case Feature(layer) | Error(layer) if layer in run.model.saes:
            return "sae_in", layer
        case Feature(layer) | Error(layer) | Mlp(layer):
            return "mlp_in", layer
        case Logits():
            return "logits_in", run.model.n_layers
        case Embed():
            raise AssertionError("refused by check_receiver")
        case _:
            assert_never(node)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Responder:
    """Answers of receivers in some rows of a base run."""

    run: Run
    rows: Rows
    freeze: Freeze

    def edits(self, node: Node, x: Float[Tensor, "row pos d_model"]) -> Iterator[Edit]:
        """What a receiver becomes when it reads x."""
        match node:
            case Head(layer, head, reader):
                for part in ("q", "k", "v") if reader is None else (reader,):
                    yield self._projection(node, layer, part, [head], x)
            case KeyValue(layer, group, reader):
                n = self.run.model.anatomy.blocks[layer].attention.heads_per_group
                heads = list(range(group * n, (group + 1) * n))
                yield self._projection(node, layer, reader, heads, x)
            case Feature(layer, index):
                yield self._feature(node, self.run.model.coders[layer], index, x)
            case Error(layer):
                self._check_nonlinear(node)
                self._check_own_features(node, self.run.model.coders[layer])
                yield self._edit(node, "error", layer, self._error(self.run.model.coders[layer], x))
            case Mlp(layer):
                self._check_nonlinear(node)
                block = self.run.model.anatomy.blocks[layer]
                yield self._edit(node, "mlp_raw", layer, block.mlp(block.ln2(x)))
            case _:
                raise AssertionError("logits answer for themselves, embed reads nothing")

    def _projection(
        self, node: Node, layer: int, part: Reader, heads: list[int], x: Tensor
    ) -> Edit:
        block = self.run.model.anatomy.blocks[layer]
        base = self.rows.of(self.run.values["resid_pre", layer])
        scale = block.ln1.scale(base) if self.freeze.gain else None
        normed = block.ln1(x, scale)
        attention = block.attention
        weights, bias = {
            "q": (attention.W_Q, attention.b_Q),
            "k": (attention.W_K, attention.b_K),
            "v": (attention.W_V, attention.b_V),
        }[part]
        shared = 1 if part == "q" else attention.heads_per_group
        columns = [normed @ weights[h // shared] + bias[h // shared] for h in heads]
        return self._edit(node, part, layer, torch.stack(columns, dim=2), heads)

    def _feature(self, node: Feature, swap: Swap, index: int, x: Tensor) -> Edit:
        block = self.run.model.anatomy.blocks[swap.layer]
        base = self.rows.of(self.run.column(swap.layer, index))
        activation = swap.coder.cfg.activation
        weight, bias, threshold = swap.encoder(index)
        pre = self._read(swap, block, x).to(weight.dtype) @ weight + bias
        if self.freeze.gain:
            value = torch.where(base > 0, pre, 0)
        else:
            match activation:
                case ReLU():
                    value = pre.relu()
                case JumpReLU() | BatchTopK():
                    assert threshold is not None  # the transcoder's constructor has checked
                    value = torch.where(pre > threshold, pre, 0).relu()
                case TopK(k) if self.freeze.thresholds:
                    value = torch.where(pre > self._bar(swap, block, index, k), pre, 0).relu()
                case TopK():
                    value = dense(swap.encode(self._read(swap, block, x)))[..., index]
                case _:
                    assert_never(activation)
        if self.run.excluded is not None:
            value = value.masked_fill(self.rows.of(self.run.excluded), 0)
        return self._edit(node, "features", swap.layer, value[..., None], [index], base[..., None])

    def _read(self, swap: Swap, block: Block, x: Tensor) -> Tensor:
        if swap.site is not None or not self.freeze.gain:
            return x if swap.site is not None else swap.read(block, x)
        base = self.rows.of(self.run.values["mlp_in", swap.layer])
        return swap.read(block, x, block.ln2.scale(base))

    def _bar(self, swap: Swap, block: Block, index: int, k: int) -> Tensor:
        """What a feature has to exceed among the others of the base run: their k-th largest pre-activation."""
        spot: Spot = "mlp_in" if swap.site is None else "sae_in"
        x = self.run.values[spot, swap.layer]
        pre = swap.pre_activations(x if swap.site is not None else swap.read(block, x))
        pre[..., index] = float("-inf")
        return self.rows.of(pre.topk(k, dim=-1).values[..., -1])

    def _error(self, swap: Swap, x: Tensor) -> Tensor:
        block = self.run.model.anatomy.blocks[swap.layer]
        x_in = self._read(swap, block, x)
        features = {
            source: dense_rows(self.run, source, self.rows)
            for source in swap.sources
            if source != swap.layer
        }
        features[swap.layer] = dense(swap.encode(x_in))
        original = x if swap.site is not None else swap.original(block.ln2(x))
        error = original - swap.decode(features, x_in).to(x.dtype)
        if self.run.excluded is None:
            return error
        return error.masked_fill(self.rows.of(self.run.excluded)[..., None], 0)

    def _edit(
        self,
        node: Node,
        spot: Spot,
        layer: int,
        value: Tensor,
        channels: list[int] | None = None,
        base: Tensor | None = None,
    ) -> Edit:
        first, length = self.rows.first, self.run.shape[1]
        positions = positions_of(node, first, length, value.device)
        kept = value[:, positions - first]
        return Edit(
            spot=spot,
            layer=layer,
            positions=positions,
            value=kept,
            base=kept if base is None else base[:, positions - first],
            channels=None
            if channels is None
            else torch.tensor(channels, device=value.device).expand(len(value), -1),
        )

    def _check_own_features(self, node: Node, swap: Swap) -> None:
        if not self.freeze.mlps and len(swap.sources) > 1:
            raise ConfigError(
                write_node(node),
                got="the error of a cross-layer transcoder, with MLPs running in between",
                expected="features of earlier layers that stay as they were",
                do='Use the preset "edge" for this receiver.',
            )

    def _check_nonlinear(self, node: Node) -> None:
        if self.freeze.gain:
            raise ConfigError(
                write_node(node),
                got="a receiver whose gain is to stay frozen",
                expected="a head, a feature or logits: an MLP has no gain of its own",
                do='Use the preset "edge" for this receiver.',
            )


def positions_of(node: Node, first: int, length: int, device: torch.device) -> Int[Tensor, " pos"]:
    """The positions from `first` on that a node stands for."""
    if node.pos is None:
        return torch.arange(first, length, device=device)
    return torch.tensor([node.pos] if node.pos >= first else [], dtype=torch.long, device=device)


def dense_rows(run: Run, layer: int, rows: Rows) -> Float[Tensor, "row pos feature"]:
    """Features of a base run at some rows, dense."""
    return rows.of(run.values["features", layer].to_dense())
