"""A forward pass of a spliced model from its anatomy, part of which may be frozen at another run.

The host computes the same, once; here any part of it can be computed again, for any positions, from any layer on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, final

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tl_transcoders.hosts import Anatomy, Block, Norm, Wiring
from tl_transcoders.splice.trace.earlier import Earlier
from tl_transcoders.splice.trace.swap import Features, Swap, product
from tl_transcoders.transcoders import SparseFeatures

Spot = Literal[
    "embed", "resid_pre", "q", "k", "v", "turned_k", "pattern", "z", "attn_raw", "attn_out",
    "resid_mid", "mlp_in", "features", "error", "mlp_raw", "mlp_out", "sae_in", "sae_out", "resid_post",
    "logits_in",
]  # fmt: skip
"""Where a pass can be visited; `mlp_in` and `logits_in` are the residual stream as the MLP and the last norm read it."""

Visit = Callable[[Spot, int, Any], Any]
Errors = Literal["freeze", "live", "zero"]


@final
@dataclass(frozen=True, slots=True)
class TracedModel:
    """A spliced model taken apart: its anatomy, the transcoders by layer, the SAEs by layer."""

    anatomy: Anatomy
    swaps: Mapping[int, Swap]
    saes: Mapping[int, Swap]

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.anatomy.blocks)

    @property
    def coders(self) -> dict[int, Swap]:
        """Transcoders and SAEs by layer."""
        return {**self.swaps, **self.saes}


@final
@dataclass(frozen=True, slots=True)
class Rows:
    """Which prompt of a base run each row of a pass continues, and from which position."""

    example: Int[Tensor, " row"]
    first: int = 0

    def of(self, value: Shaped[Tensor, "batch pos *rest"]) -> Shaped[Tensor, "row later *rest"]:
        """What a base run holds for these rows and positions."""
        return value[self.example, self.first :]

    def before(
        self, value: Shaped[Tensor, "batch pos *rest"]
    ) -> Shaped[Tensor, "row earlier *rest"]:
        """What a base run holds for these rows at the positions before."""
        return value[self.example, : self.first]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """What a pass takes from a base run instead of computing it.

    `values[spot, layer]` are the base run's tensors `[batch pos ...]`. With `attention`, heads write what they
    wrote there; with `mlps`, so do MLPs and transcoders, but for features that a visit changes and for skip
    connections, which are wires and not nodes. With `gains`, norms keep that run's σ.
    """

    values: Mapping[tuple[Spot, int], Any]
    rows: Rows
    attention: bool = False
    mlps: bool = False
    gains: bool = False


def _unchanged(_spot: Spot, _layer: int, value: Any) -> Any:
    return value


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """One pass: what it runs on, what is frozen, how errors behave, and who visits it.

    `excluded` are positions left to the original MLP. `visit(spot, layer, value)` sees every value and
    returns what the pass goes on with.
    """

    model: TracedModel
    wirings: tuple[Wiring, ...]
    frozen: Frozen | None = None
    errors: Errors = "freeze"
    excluded: Bool[Tensor, "batch pos"] | None = None
    visit: Visit = _unchanged

    def run(
        self, x: Float[Tensor, "row pos d_model"], *, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "row pos d_model"]:
        """The residual stream after the blocks `start` to `stop`, from what enters the first of them."""
        coded = Coded(start)
        if start == 0:
            x = self.visit("embed", 0, x)
        for layer in range(start, self.model.n_layers if stop is None else stop):
            x = self._block(layer, x, coded)
        return x

    def logits(self, x: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos vocab"]:
        """Logits of the last residual stream."""
        return self.model.anatomy.logits(self.visit("logits_in", self.model.n_layers, x))

    def _block(self, layer: int, x: Tensor, coded: "Coded") -> Tensor:
        block = self.model.anatomy.blocks[layer]
        x = self.visit("resid_pre", layer, self._sae("resid_pre", layer, x, coded))
        mid = x + self._attention(block, layer, x, coded)
        if not block.parallel:
            mid = self._sae("resid_mid", layer, mid, coded)
        mid = self.visit("resid_mid", layer, mid)
        read = self.visit("mlp_in", layer, x if block.parallel else mid)
        out = self.visit("mlp_raw", layer, self._mlp(block, layer, read, coded))
        out = self._post(block.ln2_post, "mlp_raw", layer, out)
        out = self.visit("mlp_out", layer, self._sae("mlp_out", layer, out, coded))
        return self.visit("resid_post", layer, self._sae("resid_post", layer, mid + out, coded))

    def _attention(self, block: Block, layer: int, x: Tensor, coded: "Coded") -> Tensor:
        z = self._frozen("z", layer) if self._freezes_attention else self.z(layer, x)
        visited = self.visit("z", layer, z)
        coder = self.model.saes.get(layer)
        coded_here = coder is not None and coder.site in ("z", "attn_out")
        if self._freezes_attention and visited is z and not coded_here:
            return self.visit("attn_out", layer, self._frozen("attn_out", layer))
        z = self._sae("z", layer, visited.flatten(2), coded).view(z.shape)
        out = self.visit("attn_raw", layer, block.attention.write(z))
        out = self._post(block.ln1_post, "attn_raw", layer, out)
        return self.visit("attn_out", layer, self._sae("attn_out", layer, out, coded))

    def z(
        self, layer: int, x: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row pos head d_head"]:
        """What the heads of a layer mix, from the residual stream they read."""
        block = self.model.anatomy.blocks[layer]
        attention, wiring = block.attention, self.wirings[layer]
        earlier = self._earlier(layer)
        first = 0 if earlier is None else earlier.length
        normed = block.ln1(x)
        q = self.visit("q", layer, attention.q(normed))
        k = self.visit("k", layer, attention.k(normed))
        v = self.visit("v", layer, attention.v(normed))
        q = attention.turn_q(q, wiring, first)
        k = self.visit("turned_k", layer, attention.turn_k(k, wiring, first))
        products = attention.products(q, k)
        if earlier is not None:
            products = torch.cat([earlier.products(q), products], dim=-1)
        pattern = self.visit("pattern", layer, attention.weigh(products, wiring, first))
        mixed = attention.mix(pattern[..., first:], v)
        return mixed if earlier is None else mixed + earlier.mix(pattern[..., :first])

    def _earlier(self, layer: int) -> Earlier | None:
        if self.frozen is None or not self.frozen.rows.first:
            return None
        values, rows = self.frozen.values, self.frozen.rows
        k, v = (values[spot, layer][:, : rows.first] for spot in ("turned_k", "v"))
        return Earlier(k, v, rows.example)

    def _mlp(self, block: Block, layer: int, x: Tensor, coded: "Coded") -> Tensor:
        swap = self.model.swaps.get(layer)
        if self.frozen is not None and self.frozen.mlps:
            return self._skipped(swap, block, x, self._thawed(swap, self._frozen("mlp_raw", layer)))
        if swap is None:
            return block.mlp(block.ln2(x))
        original = cache(lambda: swap.original(block.ln2(x)))
        return self._through(swap, swap.read(block, x), original, coded)

    def _skipped(self, swap: Swap | None, block: Block, x: Tensor, out: Tensor) -> Tensor:
        """What the base run wrote, and what a skip connection makes of the change of x."""
        if swap is None or swap.W_skip is None:
            return out
        base = self._frozen("mlp_in", swap.layer)
        scale = block.ln2.scale(base) if self.frozen is not None and self.frozen.gains else None
        change = swap.read(block, x, scale) - swap.read(block, base)
        passed, mask = (change.to(swap.W_skip.dtype) @ swap.W_skip).to(out.dtype), self._mask()
        return out + (passed if mask is None else passed.masked_fill(mask[..., None], 0))

    def _post(self, norm: Norm | None, spot: Spot, layer: int, out: Tensor) -> Tensor:
        if norm is None:
            return out
        gains = self.frozen is not None and self.frozen.gains
        return norm(out, norm.scale(self._frozen(spot, layer)) if gains else None)

    def _sae(self, site: str, layer: int, x: Tensor, coded: "Coded") -> Tensor:
        swap = self.model.saes.get(layer)
        if swap is None or swap.site != site:
            return x
        x = self.visit("sae_in", layer, x)
        frozen = self.frozen is not None and (
            self.frozen.mlps or (self.frozen.attention and site in ("z", "attn_out"))
        )
        if frozen:
            y = self._thawed(swap, self._frozen("sae_out", layer))
        else:
            y = self._through(swap, x, lambda: x, coded)
        return self.visit("sae_out", layer, y)

    def _through(
        self, swap: Swap, x: Tensor, original: Callable[[], Tensor], coded: "Coded"
    ) -> Tensor:
        """The reconstruction of a transcoder or SAE, with its error and the original's values where excluded."""
        mask = self._mask()
        unedited = _without(swap.encode(x), mask)
        edited = self.visit("features", swap.layer, unedited)
        coded.note(swap.layer, edited, unedited)
        carried = self._carried(swap, coded.start)
        y = swap.decode(coded.edited, x, carried).to(x.dtype)
        if swap.policy != "drop" and self.errors != "zero":
            error = self._error(swap, x, y, carried, original, coded)
            y = (y + self.visit("error", swap.layer, error)).to(x.dtype)
        return y if mask is None else torch.where(mask[..., None], original(), y)

    def _error(
        self,
        swap: Swap,
        x: Tensor,
        y: Tensor,
        carried: Tensor | None,
        original: Callable[[], Tensor],
        coded: "Coded",
    ) -> Tensor:
        stored = swap.stored_error
        if self.frozen is not None and (self.errors == "freeze" or stored is not None):
            return self._frozen("error", swap.layer)
        if stored is not None:
            return stored.expand_as(y)
        if coded.changed:
            y = swap.decode(coded.unedited, x, carried).to(x.dtype)
        error, mask = original() - y, self._mask()
        return error if mask is None else error.masked_fill(mask[..., None], 0)

    def _thawed(self, swap: Swap | None, out: Tensor) -> Tensor:
        """What the base run wrote, changed by what visits change of the features and the error behind it."""
        if swap is None:
            return out
        assert self.frozen is not None
        for source in swap.sources:
            change = self.visit("features", source, NO_CHANGE)
            if change is not NO_CHANGE:
                out = out + change.through(swap.decoder(source)).to(out.dtype)
        if ("error", swap.layer) not in self.frozen.values:
            return out
        error = self._frozen("error", swap.layer)
        changed = self.visit("error", swap.layer, error)
        return out if changed is error else out + (changed - error).to(out.dtype)

    def _carried(self, swap: Swap, start: int) -> Tensor | None:
        """What cross-layer features of layers before `start` write here: what they wrote in the base run."""
        earlier = [source for source in swap.sources if source < start]
        if not earlier:
            return None
        assert self.frozen is not None
        values = self.frozen.values
        written = [product(values["features", i], swap.decoder(i)) for i in earlier]
        return self.frozen.rows.of(torch.stack(written).sum(0))

    def _mask(self) -> Tensor | None:
        if self.excluded is None or self.frozen is None:
            return self.excluded
        mask = self.frozen.rows.of(self.excluded)
        return mask if mask.any() else None

    def _frozen(self, spot: Spot, layer: int) -> Tensor:
        assert self.frozen is not None
        return self.frozen.rows.of(self.frozen.values[spot, layer])

    @property
    def _freezes_attention(self) -> bool:
        return self.frozen is not None and self.frozen.attention


@final
class Coded:
    """The features of a pass that began at block `start`, as visits left them and as they were before."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.edited: dict[int, Features] = {}
        self.unedited: dict[int, Features] = {}

    def note(self, layer: int, edited: Features, unedited: Features) -> None:
        """Keep the features of a layer for those after it."""
        self.edited[layer], self.unedited[layer] = edited, unedited

    @property
    def changed(self) -> bool:
        """Whether a visit changed any features so far."""
        return any(self.edited[layer] is not self.unedited[layer] for layer in self.edited)


@final
@dataclass(frozen=True, slots=True)
class FeatureChange:
    """By how much a visit changes some of the features that a pass holds frozen."""

    index: Int[Tensor, "row n"]
    delta: Float[Tensor, "row pos n"]

    def through(self, decoder: Float[Tensor, "feature d"]) -> Float[Tensor, "row pos d"]:
        """What the change writes."""
        return torch.einsum("rpn,rnd->rpd", self.delta, decoder[self.index])


NO_CHANGE: Final = FeatureChange(torch.empty(0, 0, dtype=torch.long), torch.empty(0, 0, 0))
"""What a visit of `features` is shown, and returns to leave them, where they are frozen."""


def _without(features: Features, mask: Tensor | None) -> Features:
    if mask is None:
        return features
    if isinstance(features, Tensor):
        return features.masked_fill(mask[..., None], 0)
    kept = ~mask.reshape(-1)[features.rows()]
    return SparseFeatures(
        features.values * kept, features.indices, features.offsets, features.shape
    )
