"""Queries and keys through the softmax exactly, linear only behind it (AtP*, Kramár et al. 2024, section 3.1)."""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.attribution.point import Point
from tl_transcoders.circuits.nodes import Reader
from tl_transcoders.hosts import Attention, Norm, Wiring
from tl_transcoders.splice.trace.run import Run


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """The attention of a layer at some rows (prompt · positions + position) of a base run.

    query at p:  Σ_k (p'_k − p_k) ∂m/∂p_k                           p' = softmax of the new query's scores
    key at t:    Σ_i g_i / (1 + g_i) · (∂m/∂p_it − Σ_j p_ij ∂m/∂p_ij)      g_i = p_it (exp(Δs_it) − 1)
    """

    run: Run
    point: Point
    layer: int
    rows: Int[Tensor, " row"]

    def effects(
        self, part: Reader, delta: Float[Tensor, "n row head d_head"]
    ) -> Float[Tensor, "n row head"]:
        """What changes of queries or keys at these rows do to the metric."""
        return self._queries(delta) if part == "q" else self._keys(delta)

    def response(
        self, part: Reader, sent: Float[Tensor, "n row d_model"]
    ) -> Float[Tensor, "n row head d_head"]:
        """By how much queries or keys change when the stream they read does."""
        attention, ln1 = self._attention, self.point.model.anatomy.blocks[self.layer].ln1
        x = self.run.values["resid_pre", self.layer].flatten(0, 1)[self.rows]
        weight = attention.W_Q if part == "q" else attention.W_K
        scale = ln1.scale(x) if ln1.constant_scale else None
        change = torch.einsum("nrd,hde->nrhe", ln1(x + sent, scale) - ln1(x), weight)
        shared = attention.n_heads // len(weight)
        return change.repeat_interleave(shared, dim=2) if shared > 1 else change

    def _queries(self, delta: Tensor) -> Tensor:
        q = self._turned("q", delta)
        keys = self.run.values["turned_k", self.layer][self._prompt]
        scores = torch.einsum("nrhe,rkhe->nrhk", q, keys) * self._wiring.scale
        visible = self._wiring.visible[self._position][:, None, : keys.shape[1]]
        pattern = self.run.values["pattern", self.layer][self._prompt, :, self._position]
        moved = scores.masked_fill(~visible, float("-inf")).softmax(-1) - pattern
        return (moved * self._gradient[self._prompt, :, self._position]).sum(-1)

    def _keys(self, delta: Tensor) -> Tensor:
        q = self._every_query()[self._prompt]
        before, after = (self._turned("k", d) for d in (torch.zeros_like(delta[:1]), delta))
        change = torch.einsum("rqhe,nrhe->nrhq", q, after - before) * self._wiring.scale
        pattern = self.run.values["pattern", self.layer]
        at_key = pattern[self._prompt, :, :, self._position]
        g = at_key * torch.expm1(change)
        mean = (pattern * self._gradient).sum(-1)[self._prompt]
        pull = self._gradient[self._prompt, :, :, self._position] - mean
        return (g / (1 + g) * pull).sum(-1)

    def _turned(self, part: Reader, delta: Tensor) -> Tensor:
        value = self.run.values[part, self.layer].flatten(0, 1)[self.rows] + delta
        return self._turn(part, value, self._position)

    def _every_query(self) -> Tensor:
        q = self.run.values["q", self.layer]
        return self._turn("q", q, torch.arange(q.shape[1], device=q.device))

    def _turn(self, part: Reader, value: Tensor, position: Tensor) -> Tensor:
        norm: Norm | None = self._attention.q_norm if part == "q" else self._attention.k_norm
        value = value if norm is None else norm(value)
        rotary = self._wiring.rotary
        if rotary is None:
            return value
        return replace(rotary, cos=rotary.cos[position], sin=rotary.sin[position])(value, 0)

    @property
    def _attention(self) -> Attention:
        return self.point.model.anatomy.blocks[self.layer].attention

    @property
    def _wiring(self) -> Wiring:
        return self.run.wirings[self.layer]

    @property
    def _gradient(self) -> Float[Tensor, "batch head query key"]:
        return self.point.gradients["pattern", self.layer]

    @property
    def _prompt(self) -> Int[Tensor, " row"]:
        return self.rows // self.run.shape[1]

    @property
    def _position(self) -> Int[Tensor, " row"]:
        return self.rows % self.run.shape[1]
