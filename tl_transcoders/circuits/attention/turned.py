"""Queries and keys of a head as they meet, linear in the residual stream: norms and rotation with what was frozen."""

from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attention.apart import Apart, Parts, split_readings
from tl_transcoders.circuits.attention.memory import chunks
from tl_transcoders.circuits.attention.passage import Passage
from tl_transcoders.circuits.graphs.sources import Sources
from tl_transcoders.circuits.nodes import Head
from tl_transcoders.hosts import Norm, Wiring

Side = Literal["q", "k"]


@final
@dataclass(frozen=True, slots=True)
class Turned:
    """Queries or keys of a head at every position: `value` as the run computed them, and their parts."""

    value: Float[Tensor, "pos d_head"]
    apart: Apart

    @classmethod
    def of(
        cls, passage: Passage, sources: Sources, head: Head, side: Side, *, memory: int
    ) -> "Turned":
        """Those of a head, as many of their dimensions at a time as fit the memory.

        turned(x) = R (γ / σ) (W ln1(x) + b)        R: rotation; γ / σ: the norm of queries or keys; σ frozen
        """
        frame, layer = passage.frame, head.layer
        turning = Turning.of(passage, head, side)
        block = frame.block(layer)
        attention = block.attention
        group = head.head // attention.heads_per_group
        weight, bias = (
            (attention.W_Q[head.head], attention.b_Q[head.head])
            if side == "q"
            else (attention.W_K[group], attention.b_K[group])
        )
        weight, bias = weight.to(frame.dtype), bias.to(frame.dtype)
        own = block.ln1.bias.to(frame.dtype) @ weight + bias
        constant = turning.whole(own.expand(1, frame.length, -1))[0]
        d_head = weight.shape[1]
        turns = turning.linear(torch.eye(d_head).to(weight)[:, None].expand(-1, frame.length, -1))
        x, parts = frame.value("resid_pre", layer), []
        for part in chunks(frame, d_head, memory):
            g = torch.einsum("dr,rpe->epd", weight, turns[..., part])
            parts.append(split_readings(passage, sources, layer, block.ln1.pull(x, g)))
        apart = Apart.joined(parts)
        apart.bias[:, layer] += constant
        return cls(turning.value, apart)

    def at(self, pos: int) -> Parts:
        """The parts of one query or key."""
        return self.apart.at(pos)


@final
@dataclass(frozen=True, slots=True)
class Turning:
    """What becomes of a query or key at every position before it meets another."""

    raw: Float[Tensor, "pos d_head"]
    norm: Norm | None
    wiring: Wiring

    @classmethod
    def of(cls, passage: Passage, head: Head, side: Side) -> "Turning":
        """That of a head of the run."""
        frame = passage.frame
        attention = frame.block(head.layer).attention
        norm = attention.q_norm if side == "q" else attention.k_norm
        raw = frame.value(side, head.layer)[:, head.head]
        return cls(raw, norm, frame.run.wirings[head.layer])

    @property
    def value(self) -> Float[Tensor, "pos d_head"]:
        """Those of the run."""
        whole = self.raw if self.norm is None else self.norm(self.raw)
        return self._rotated(whole[None])[0]

    def linear(self, x: Float[Tensor, "n pos d_head"]) -> Float[Tensor, "n pos d_head"]:
        """Parts of queries or keys, through the norm with the σ of the whole, and rotated."""
        return self._rotated(x if self.norm is None else self.norm.push(self.raw, x))

    def whole(self, x: Float[Tensor, "n pos d_head"]) -> Float[Tensor, "n pos d_head"]:
        """The same, the norm's own bias added."""
        return self._rotated(
            x if self.norm is None else self.norm.push(self.raw, x) + self.norm.bias
        )

    def _rotated(self, x: Tensor) -> Tensor:
        rotary = self.wiring.rotary
        if rotary is None:
            return x
        wide = replace(rotary, cos=rotary.cos.to(x.dtype), sin=rotary.sin.to(x.dtype))
        return wide(x[:, :, None], 0)[:, :, 0]
