"""The metric of a model in which only some edges carry what their senders compute.

    x[r] = x[∅] + Σ_w live[r, w] (write[w] − write[w] in ∅)        every w reads its own streams in turn

∅ is the run with every node ablated. Norms, skip connections and post-norms act on x[r] as a whole.
"""

from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.ablation.plan import Others, Plan, Unit
from tl_transcoders.circuits.ablation.setting import Setting
from tl_transcoders.circuits.nodes import READERS, Embed, Error, Feature, Head, Logits, Mlp
from tl_transcoders.circuits.read_metric import read_metric
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice.trace.forward import Rows, Spot
from tl_transcoders.splice.trace.run import Run
from tl_transcoders.splice.trace.swap import Swap, dense, product
from tl_transcoders.transcoders import TopK
from tl_transcoders.transcoders.activations import activate


@torch.no_grad()
def measure_edges(setting: Setting, empty: Run, plan: Plan) -> Float[Tensor, "variant batch"]:
    """The metric of every prompt in every variant of a plan; `empty` is the run with every node ablated.

    **Raises:** ConfigError where the splice leaves positions to the original MLP, which is no node there.
    """
    if setting.run.excluded is not None:
        raise ConfigError(
            "edges",
            got="a splice that leaves positions to the original MLP",
            expected="one whose transcoders stand at every position",
            do='Splice without exclude=, or use level="node".',
        )
    n_variants = plan.live.shape[1]
    values = []
    n_streams = len(plan.live.flatten(1).unique(dim=0))
    for part in setting.prompts(n_streams * n_variants * empty.embed[0].numel()):
        streams = Streams(setting, empty, plan, part)
        x = streams.last()
        rows = Rows(part.repeat(n_variants))
        values.append(read_metric(empty, setting.metric, x, rows).view(n_variants, len(part)))
    return torch.cat(values, dim=1)


@final
class Streams:
    """The residual streams that readers read, side by side as rows of one pass frozen at the empty run.

    Readers of the same writers share a stream. Rows are ordered by stream, variant and prompt. As the pass comes by,
    readers read and writers write, as changes against the empty run.
    """

    def __init__(
        self, setting: Setting, empty: Run, plan: Plan, part: Int[Tensor, " prompt"]
    ) -> None:
        self.setting, self.empty, self.plan, self.part = setting, empty, plan, part
        live, stream = plan.live.flatten(1).unique(dim=0, return_inverse=True)
        self.live = live.unflatten(1, plan.live.shape[1:]).to(empty.embed.dtype)
        self.stream = dict(zip(plan.readers, stream.tolist(), strict=True))
        self.rows = Rows(part.repeat(plan.live.shape[1]))
        self.features: dict[int, Float[Tensor, "writer row pos"]] = {}
        self.others: dict[int, Float[Tensor, "row pos feature"]] = {}
        self.changes: dict[tuple[Spot, int], list[tuple[int, Tensor]]] = {}
        self.z: dict[int, Float[Tensor, "writer row pos d_head"]] = {}

    def last(self) -> Float[Tensor, "row pos d_model"]:
        """What the logits read, in every variant and prompt."""
        rows = Rows(self.rows.example.repeat(len(self.live)))
        forward = self.empty.forward(rows=rows, attention=True, mlps=True, visit=self._visit)
        return self._read(forward.run(rows.of(self.empty.embed)), [Logits()])[0]

    def _visit(self, spot: Spot, layer: int, value: Any) -> Any:
        match spot:
            case "embed":
                return self._embedded(value)
            case "resid_pre":
                self._attend(layer, value)
            case "z" if layer in self.z:
                return self._with_heads(layer, value)
            case "sae_in":
                self._encode(layer, value)
            case "mlp_in" if layer in self.empty.model.swaps:
                self._encode(layer, value)
            case "mlp_in":
                self._compute_mlp(layer, value)
            case "mlp_raw" | "sae_out":
                return self._with_changes(spot, layer, value)
            case _:
                pass
        return value

    # reading

    def _read(self, x: Tensor, readers: Sequence[Unit]) -> Float[Tensor, "reader row pos d"]:
        streams = [self.stream[reader] for reader in readers]
        return x.unflatten(0, (len(self.live), -1))[streams]

    def _attend(self, layer: int, x: Tensor) -> None:
        """What the heads that write compute, each query, key and value from its own stream."""
        heads = [unit.head for unit in self.plan.of(Head, layer)]
        if not heads:
            return
        block, wiring = self.empty.model.anatomy.blocks[layer], self.empty.wirings[layer]
        attention = block.attention
        groups = [head // attention.heads_per_group for head in heads]
        q, k, v = (
            torch.einsum("nrpd,nde->rpne", block.ln1(self._read(x, inputs)), weight) + bias
            for inputs, weight, bias in (
                (self._inputs(layer, heads, 0), attention.W_Q[heads], attention.b_Q[heads]),
                (self._inputs(layer, heads, 1), attention.W_K[groups], attention.b_K[groups]),
                (self._inputs(layer, heads, 2), attention.W_V[groups], attention.b_V[groups]),
            )
        )
        turned = attention.turn_q(q, wiring), attention.turn_k(k, wiring)
        z = attention.mix(attention.pattern(*turned, wiring), v)
        self.z[layer] = (z - self._before("z", layer)[:, :, heads]).permute(2, 0, 1, 3)

    def _inputs(self, layer: int, heads: Sequence[int], reader: int) -> list[Unit]:
        return [Head(layer, head, READERS[reader]) for head in heads]

    def _compute_mlp(self, layer: int, x: Tensor) -> None:
        block = self.empty.model.anatomy.blocks[layer]
        for mlp, writer in self.plan.of(Mlp, layer).items():
            out = block.mlp(block.ln2(self._read(x, [mlp])[0]))
            self._note("mlp_raw", layer, writer, out - self._before("mlp_raw", layer))

    def _encode(self, layer: int, x: Tensor) -> None:
        """What the features, the other features and the error of a layer become, each from its own stream."""
        swap = self.empty.model.coders[layer]
        named, before = self.plan.of(Feature, layer), self._features_before(layer)
        indices = [feature.index for feature in named]
        if named:
            inner = torch.stack([self._inner(swap, y) for y in self._read(x, list(named))])
            was = before[..., indices].permute(2, 0, 1)
            self.features[layer] = _activations(swap, inner, indices) - was
        for others in self.plan.of(Others, layer):
            change = dense(swap.encode(self._inner(swap, self._read(x, [others])[0]))) - before
            change[..., indices] = 0
            self.others[layer] = change
        for node, writer in self.plan.of(Error, layer).items():
            change = self._error(swap, self._read(x, [node])[0]) - self._before("error", layer)
            self._note("mlp_raw" if swap.site is None else "sae_out", layer, writer, change)

    def _inner(self, swap: Swap, x: Tensor) -> Tensor:
        """What a transcoder reads of a stream."""
        return x if swap.site is not None else swap.read(self._block(swap), x)

    def _error(self, swap: Swap, x: Float[Tensor, "row pos d"]) -> Float[Tensor, "row pos d_out"]:
        if swap.stored_error is not None:
            return self.rows.of(swap.stored_error.expand(len(self.empty.embed), -1, -1))
        inner, carried, stream = self._inner(swap, x), None, self.stream[Error(swap.layer)]
        # What cross-layer features write here is part of the reconstruction, so the error reads them directly.
        for source in swap.sources[:-1]:
            decoder = swap.decoder(source)
            part = product(self._features_before(source), decoder)
            part = part + self._written(source, decoder, slice(stream, stream + 1))[0]
            carried = part if carried is None else carried + part
        y = swap.decode({swap.layer: swap.encode(inner)}, inner, carried).to(x.dtype)
        return (x if swap.site is not None else swap.original(self._block(swap).ln2(x))) - y

    def _features_before(self, layer: int) -> Float[Tensor, "row pos feature"]:
        before = self.setting.ablated.of("features", layer, self.rows, self.empty.embed)
        shape = len(self.rows.example), self.empty.shape[1]
        return before.expand(*shape, self.empty.model.coders[layer].n_features)

    def _before(self, spot: Spot, layer: int) -> Tensor:
        return self.rows.of(self.empty.values[spot, layer])

    def _block(self, swap: Swap) -> Any:
        return self.empty.model.anatomy.blocks[swap.layer]

    # writing

    def _embedded(self, value: Tensor) -> Tensor:
        change = self.rows.of(self.setting.run.embed) - self.rows.of(self.empty.embed)
        return value + self._sent([self.plan.writers.index(Embed())], change[None])

    def _note(self, spot: Spot, layer: int, writer: int, change: Tensor) -> None:
        self.changes.setdefault((spot, layer), []).append((writer, change))

    def _with_heads(self, layer: int, value: Tensor) -> Tensor:
        found = self.plan.of(Head, layer)
        heads = [unit.head for unit in found]
        live, changes = self._live(found.values()), self._by_variant(self.z[layer])
        sent = torch.einsum("svnp,nvbpe->svbpne", live, changes)
        value = value.clone()
        value[:, :, heads] += sent.flatten(0, 2)
        return value

    def _with_changes(self, spot: Spot, layer: int, value: Tensor) -> Tensor:
        for writer, change in self.changes.get((spot, layer), ()):
            value = value + self._sent([writer], change[None])
        swap = self.empty.model.coders.get(layer)
        if swap is None or (spot == "sae_out") == (swap.site is None):
            return value
        for source in swap.sources:
            value = value + self._written(source, swap.decoder(source)).flatten(0, 1).to(value)
        return value

    def _written(
        self, layer: int, decoder: Tensor, streams: slice = slice(None)
    ) -> Float[Tensor, "stream row pos d_out"]:
        """What changed features of a layer write into streams through a decoder."""
        shape = (len(self.live[streams]), *self.rows.of(self.empty.embed).shape[:2])
        total = decoder.new_zeros(*shape, decoder.shape[1])
        if layer in self.features:
            named = self.plan.of(Feature, layer)
            live = self._live(named.values(), streams)
            changes = self._by_variant(self.features[layer])
            decoders = decoder[[feature.index for feature in named]]
            total = total + torch.einsum("svnp,nvbp,nd->svbpd", live, changes, decoders).flatten(
                1, 2
            )
        if layer in self.others:
            written = product(self.others[layer], decoder)[None]
            sent = self._sent(self.plan.of(Others, layer).values(), written, streams)
            total = total + sent.unflatten(0, (shape[0], -1))
        return total

    def _sent(
        self, writers: Iterable[int], changes: Tensor, streams: slice = slice(None)
    ) -> Float[Tensor, "row pos d"]:
        """Σ live · change, in every row."""
        live, changes = self._live(writers, streams), self._by_variant(changes)
        return torch.einsum("svnp,nvbpd->svbpd", live, changes).flatten(0, 2)

    def _live(self, writers: Iterable[int], streams: slice = slice(None)) -> Tensor:
        live = self.live[streams][:, :, list(writers)]
        return live.expand(-1, -1, -1, self.empty.shape[1])

    def _by_variant(self, changes: Float[Tensor, "writer row *rest"]) -> Tensor:
        return changes.unflatten(1, (self.live.shape[1], -1))


def _activations(
    swap: Swap, x: Float[Tensor, "writer row pos d_in"], indices: Sequence[int]
) -> Float[Tensor, "writer row pos"]:
    """One feature each of what each reads; a TopK feature competes with all others in its own stream."""
    if isinstance(swap.coder.cfg.activation, TopK):
        each = zip(indices, x, strict=True)
        return torch.stack([dense(swap.encode(y))[..., index] for index, y in each])
    encoders, biases, thresholds = zip(*map(swap.encoder, indices), strict=True)
    pre = torch.einsum("nrpd,nd->rpn", x.to(encoders[0].dtype), torch.stack(encoders))
    some = [threshold for threshold in thresholds if threshold is not None]
    post = activate(
        swap.coder.cfg.activation, pre + torch.stack(biases), torch.stack(some) if some else None
    )
    return post.permute(2, 0, 1)
