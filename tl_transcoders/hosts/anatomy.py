"""A model's parts as weights and formulas, so that they can be evaluated one by one away from the host."""

from dataclasses import dataclass, replace
from typing import final, overload

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor, nn

LOW_PRECISION = (torch.float16, torch.bfloat16)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """y = gain ⊙ (x − mean x) / σ + bias, with σ = √(mean (x − mean x)² + eps).

    The mean is subtracted only where `centred` (LayerNorm), and σ is 1 where it does not normalise. Where
    `constant_scale`, derivatives take σ for a constant.
    """

    gain: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]
    eps: float
    centred: bool
    normalises: bool = True
    constant_scale: bool = False

    def centre(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """x, less its mean where the norm subtracts it."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch 1"]:
        """σ."""
        if not self.normalises:
            return torch.ones_like(x[..., :1])
        return (self.centre(x).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def normalized(
        self, x: Float[Tensor, "*batch d"], scale: Float[Tensor, "*batch 1"] | None = None
    ) -> Float[Tensor, "*batch d"]:
        """(x − mean x) / σ, with the σ given instead of x's own."""
        if x.dtype in LOW_PRECISION:
            return self.normalized(x.float(), scale).to(x.dtype)
        if scale is None:
            scale = self.scale(x).detach() if self.constant_scale else self.scale(x)
        return self.centre(x) / scale

    def push(
        self, x: Float[Tensor, "*#batch d"], change: Float[Tensor, "*#batch d"]
    ) -> Float[Tensor, "*batch d"]:
        """What a small change of x makes of the norm of x: J change, J = gain ⊙ (I − ĉ ĉᵀ / d) C / σ, ĉ = Cx / σ."""
        return self.push_normalized(x, change) * self.gain

    def push_normalized(
        self, x: Float[Tensor, "*#batch d"], change: Float[Tensor, "*#batch d"]
    ) -> Float[Tensor, "*batch d"]:
        """The same before the gain."""
        return self._project(x, self.centre(change))

    def pull(
        self, x: Float[Tensor, "*#batch d"], gradient: Float[Tensor, "*#batch d"]
    ) -> Float[Tensor, "*batch d"]:
        """The gradient of x from that of its norm: Jᵀ gradient."""
        return self.pull_normalized(x, gradient * self.gain)

    def pull_normalized(
        self, x: Float[Tensor, "*#batch d"], gradient: Float[Tensor, "*#batch d"]
    ) -> Float[Tensor, "*batch d"]:
        """The same from that before the gain."""
        return self.centre(self._project(x, gradient))

    def _project(self, x: Tensor, v: Tensor) -> Tensor:
        scale = self.scale(x)
        if self.constant_scale or not self.normalises:
            return v / scale
        c = self.centre(x) / scale
        return (v - c * ((c * v).sum(-1, keepdim=True) / x.shape[-1])) / scale

    def __call__(
        self, x: Float[Tensor, "*batch d"], scale: Float[Tensor, "*batch 1"] | None = None
    ) -> Float[Tensor, "*batch d"]:
        """The norm of x, with the σ given instead of x's own."""
        return self.normalized(x, scale) * self.gain + self.bias


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary position embedding of the first `cos.shape[1]` dimensions of a head.

    `adjacent` says whether the two halves of a rotated pair lie side by side, or half the dimensions apart.
    """

    cos: Float[Tensor, "pos rotated"]
    sin: Float[Tensor, "pos rotated"]
    adjacent: bool

    def __call__(
        self, x: Float[Tensor, "batch pos head d_head"], first: int
    ) -> Float[Tensor, "batch pos head d_head"]:
        """x rotated, its first position being `first`."""
        width, positions = self.cos.shape[1], slice(first, first + x.shape[1])
        cos, sin = self.cos[positions, None], self.sin[positions, None]
        turned, rest = x[..., :width], x[..., width:]
        return torch.cat([turned * cos + self._quarter_turn(turned) * sin, rest], dim=-1)

    def _quarter_turn(self, x: Tensor) -> Tensor:
        if self.adjacent:
            return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        low, high = x.chunk(2, dim=-1)
        return torch.cat([-high, low], dim=-1)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """How the attention of a layer connects positions: rotation, the scale of its scores, who may see whom."""

    rotary: Rotary | None
    scale: float
    visible: Bool[Tensor, "query key"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Weights of an attention layer; several heads may share the keys and values of a group."""

    W_Q: Float[Tensor, "head d_model d_head"]
    b_Q: Float[Tensor, "head d_head"]
    W_K: Float[Tensor, "group d_model d_head"]
    b_K: Float[Tensor, "group d_head"]
    W_V: Float[Tensor, "group d_model d_head"]
    b_V: Float[Tensor, "group d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_O: Float[Tensor, " d_model"]
    q_norm: Norm | None = None
    k_norm: Norm | None = None

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return len(self.W_Q)

    @property
    def n_groups(self) -> int:
        """Number of key-value heads."""
        return len(self.W_K)

    @property
    def heads_per_group(self) -> int:
        """How many query heads share a key-value head."""
        return self.n_heads // self.n_groups

    def q(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        """Queries of a normalised x, before their norm and rotation."""
        return _project(x, self.W_Q, self.b_Q)

    def k(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        """Keys of a normalised x, one copy for every query head, before their norm and rotation."""
        return self._per_head(_project(x, self.W_K, self.b_K))

    def v(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        """Values of a normalised x, one copy for every query head."""
        return self._per_head(_project(x, self.W_V, self.b_V))

    def turn_q(
        self, q: Float[Tensor, "batch pos head d_head"], wiring: Wiring, first: int = 0
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Queries as they meet the keys; `first` is the position of the first of them."""
        return _turned(q, self.q_norm, wiring, first)

    def turn_k(
        self, k: Float[Tensor, "batch pos head d_head"], wiring: Wiring, first: int = 0
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Keys as they meet the queries."""
        return _turned(k, self.k_norm, wiring, first)

    def pattern(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch key head d_head"],
        wiring: Wiring,
        first: int = 0,
    ) -> Float[Tensor, "batch head query key"]:
        """Softmax of the scores of turned queries over the turned keys each may see."""
        return self.weigh(self.products(q, k), wiring, first)

    def products(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch key head d_head"],
    ) -> Float[Tensor, "batch head query key"]:
        """q · k of turned queries and keys, not yet scaled."""
        return torch.einsum("bqhd,bkhd->bhqk", q, k)

    def weigh(
        self, products: Float[Tensor, "batch head query key"], wiring: Wiring, first: int = 0
    ) -> Float[Tensor, "batch head query key"]:
        """Softmax of the scaled products over the keys each query may see."""
        scores = products * wiring.scale
        visible = wiring.visible[first : first + scores.shape[2], : scores.shape[3]]
        scores = scores.masked_fill(~visible, float("-inf"))
        wide = torch.float32 if scores.dtype in LOW_PRECISION else scores.dtype
        return scores.softmax(-1, dtype=wide).to(scores.dtype)

    def mix(
        self,
        pattern: Float[Tensor, "batch head query key"],
        v: Float[Tensor, "batch key head d_head"],
    ) -> Float[Tensor, "batch query head d_head"]:
        """z = pattern @ v, head by head."""
        return torch.einsum("bhqk,bkhd->bqhd", pattern, v)

    def write(
        self, z: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Σ_h z[h] @ W_O[h] + b_O."""
        return z.flatten(2) @ self.W_O.flatten(0, 1) + self.b_O

    def _per_head(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.heads_per_group, dim=2) if self.heads_per_group > 1 else x


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One layer: x_mid = x + ln1_post(attention(ln1 x)), then x_mid + ln2_post(mlp(ln2 x_mid)).

    Where `parallel`, the MLP reads x instead of x_mid.
    """

    ln1: Norm
    attention: Attention
    ln1_post: Norm | None
    ln2: Norm
    mlp: nn.Module
    ln2_post: Norm | None
    parallel: bool

    @property
    def value_bias(self) -> Float[Tensor, "head d_head"]:
        """What heads have for values whatever they read: ln1.bias @ W_V + b_V, one copy for every query head."""
        attention = self.attention
        bias = einsum(self.ln1.bias, attention.W_V, "d, group d e -> group e") + attention.b_V
        return bias.repeat_interleave(attention.heads_per_group, dim=0)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """All blocks and the way from the last of them to the logits."""

    blocks: tuple[Block, ...]
    ln_final: Norm
    W_U: Float[Tensor, "d_model vocab"]
    b_U: Float[Tensor, " vocab"]
    softcap: float | None

    def with_constant_scales(self) -> "Anatomy":
        """The same, its norms taking σ for a constant in derivatives."""
        blocks = tuple(
            replace(
                block,
                ln1=_constant(block.ln1),
                ln2=_constant(block.ln2),
                ln1_post=_constant(block.ln1_post),
                ln2_post=_constant(block.ln2_post),
                attention=replace(
                    block.attention,
                    q_norm=_constant(block.attention.q_norm),
                    k_norm=_constant(block.attention.k_norm),
                ),
            )
            for block in self.blocks
        )
        return replace(self, blocks=blocks, ln_final=_constant(self.ln_final))

    def logits(
        self,
        x: Float[Tensor, "*batch d_model"],
        scale: Float[Tensor, "*batch 1"] | None = None,
    ) -> Float[Tensor, "*batch vocab"]:
        """softcap(ln_final(x) @ W_U + b_U)."""
        return self.capped(self.ln_final(x, scale) @ self.W_U + self.b_U)

    def capped(self, logits: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """c · tanh(logits / c) where the model caps them at c."""
        cap = self.softcap
        return logits if cap is None else (logits / cap).tanh() * cap


@overload
def _constant(norm: Norm) -> Norm: ...
@overload
def _constant(norm: Norm | None) -> Norm | None: ...
def _constant(norm: Norm | None) -> Norm | None:
    return None if norm is None else replace(norm, constant_scale=True)


def _project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return einsum(x, weight, "b p d, h d e -> b p h e") + bias


def _turned(x: Tensor, norm: Norm | None, wiring: Wiring, first: int) -> Tensor:
    x = x if norm is None else norm(x)
    return x if wiring.rotary is None else wiring.rotary(x, first)
