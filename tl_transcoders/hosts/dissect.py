"""Taking a host apart into an `Anatomy`, and observing how its attention is wired in a run."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts.anatomy import Anatomy, Attention, Block, Norm, Rotary, Wiring
from tl_transcoders.hosts.base import AbstractHost
from tl_transcoders.hosts.probe import probe_norm
from tl_transcoders.hosts.registry import all_hook_points
from tl_transcoders.hosts.tap import Silence

MASKED: Final = -1e30
"""Scores below this belong to keys a query may not see."""


TINY: Final = 1e-20
"""Below this sum of squares, scores say nothing about their scale."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a forward pass of the host showed: its start, its end, and how attention was wired in between."""

    embed: Float[Tensor, "batch pos d_model"]
    wirings: tuple[Wiring, ...]
    logits: Float[Tensor, "batch pos vocab"]


def dissect(host: AbstractHost) -> Anatomy:
    """The weights and norms of a model; raises SpliceError where it has parts that no formula here describes."""
    model, cfg = host.model, host.model.cfg
    with quiet(host):
        blocks = tuple(_block(host, layer) for layer in range(host.n_layers))
        ln_final = _norm(host, model.ln_final, "ln_final")
    W_U, b_U = model.W_U.detach(), model.b_U
    cap = getattr(cfg, "output_logits_soft_cap", None)
    return Anatomy(
        blocks=blocks,
        ln_final=ln_final,
        W_U=W_U,
        b_U=W_U.new_zeros(W_U.shape[1]) if b_U is None else b_U.detach(),
        softcap=cap if cap and cap > 0 else None,
    )


def observe(
    host: AbstractHost, anatomy: Anatomy, tokens: Int[Tensor, "batch pos"], *, keep: Iterable[int]
) -> Observation:
    """Run the host once, with every hook silent but the torch hooks whose ids are in `keep`.

    **Raises:** SpliceError where attention is not softmax(scale · q·k) over visible keys (soft-capped scores,
    ALiBi), or differs between the prompts of a batch (padding).
    """
    points: Any = host.model.hook_dict  # which a bridge builds anew every time it is asked
    names = [
        f"blocks.{layer}.{point}"
        for layer in range(host.n_layers)
        for point in ("hook_resid_pre", "attn.hook_attn_scores", *host.rotary_hooks)
        if f"blocks.{layer}.{point}" in points
    ]
    seen: dict[str, Tensor] = {}
    with quiet(host, keep=keep), ExitStack() as stack, torch.no_grad():
        for name in names:
            stack.callback(_record(points[name], name, seen).remove)
        first = points["blocks.0.hook_resid_pre"]
        stack.callback(_record_before(first, "embed", seen).remove)
        logits = host.logits(tokens)
        _check_numbers(logits)
        wirings = tuple(_wiring(host, anatomy, layer, seen) for layer in range(host.n_layers))
    return Observation(embed=seen["embed"], wirings=wirings, logits=logits)


def quiet(host: AbstractHost, *, keep: Iterable[int] = ()) -> Silence:
    """A context in which no hook of the model fires, but for the torch hooks whose ids are in `keep`."""
    return Silence(list(all_hook_points(host.model)), keep=set(keep))


def _check_numbers(logits: Tensor) -> None:
    if logits.isnan().any():
        raise SpliceError(
            "circuits",
            got="logits that are NaN",
            expected="numbers",
            do="Check the weights of the model and of the transcoders; try float32.",
        )


def _record(point: nn.Module, name: str, seen: dict[str, Tensor]) -> Any:
    def keep(_: nn.Module, __: object, value: Tensor) -> None:
        seen[name] = value.detach()

    return point.register_forward_hook(keep)


def _record_before(point: nn.Module, key: str, seen: dict[str, Tensor]) -> Any:
    """What reaches a hook point before anything that hangs there changes it."""

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[key] = args[0].detach()

    return point.register_forward_pre_hook(keep)


def _block(host: AbstractHost, layer: int) -> Block:
    block, where = host.block(layer), f"blocks.{layer}"
    parts: dict[str, Any] = dict(block.named_children())
    ln1_post, ln2_post = parts.get("ln1_post"), host.post_norm(layer)
    return Block(
        ln1=_norm(host, parts["ln1"], f"{where}.ln1"),
        attention=_attention(host, layer),
        ln1_post=None if ln1_post is None else _norm(host, ln1_post, f"{where}.ln1_post"),
        ln2=_norm(host, parts["ln2"], f"{where}.ln2"),
        mlp=host.mlp(layer),
        ln2_post=None if ln2_post is None else _norm(host, ln2_post, f"{where}.ln2_post"),
        parallel=bool(getattr(host.model.cfg, "parallel_attn_mlp", False)),
    )


def _attention(host: AbstractHost, layer: int) -> Attention:
    module: Any = host.block(layer).attn
    weights = host.attention_weights(layer)
    tensors = {
        name: _zero_bias(weights, name) if tensor is None else tensor.detach()
        for name, tensor in weights.items()
    }
    children = dict(module.named_children())
    norms = {
        name: _norm(host, children[name], f"blocks.{layer}.attn.{name}", module.W_Q.shape[-1])
        for name in ("q_norm", "k_norm")
        if children.get(name) is not None
    }
    return Attention(**tensors, q_norm=norms.get("q_norm"), k_norm=norms.get("k_norm"))


def _zero_bias(weights: Mapping[str, Tensor | None], name: str) -> Tensor:
    weight = weights[f"W_{name[-1]}"]
    assert weight is not None  # only biases may be missing
    return weight.new_zeros(weight.shape[2] if name == "b_O" else weight.shape[::2])


def _norm(host: AbstractHost, module: Any, where: str, width: int | None = None) -> Norm:
    like = torch.empty(0, device=host.device, dtype=host.dtype)
    return probe_norm(module, width or host.d_model, eps=host.model.cfg.eps, like=like, where=where)


def _wiring(host: AbstractHost, anatomy: Anatomy, layer: int, seen: dict[str, Tensor]) -> Wiring:
    block, where = anatomy.blocks[layer], f"blocks.{layer}.attn"
    scores = seen[f"{where}.hook_attn_scores"]
    visible = scores > max(MASKED, torch.finfo(scores.dtype).min / 2)
    if not (visible == visible[:1, :1]).all():
        raise SpliceError(
            where,
            got="prompts of a batch that see different positions",
            expected="prompts of one length, without padding",
            do="Trace prompts of equal length together.",
        )
    rotary: Rotary | None = host.rotary(layer, scores.shape[-1], seen)
    bare = Wiring(rotary=rotary, scale=1.0, visible=visible[0, 0])
    x = block.ln1(seen[f"blocks.{layer}.hook_resid_pre"])
    attention = block.attention
    products = torch.einsum(
        "bqhd,bkhd->bhqk",
        attention.turn_q(attention.q(x), bare),
        attention.turn_k(attention.k(x), bare),
    )
    found, computed = scores[visible].double(), products[visible].double()
    size = float(computed @ computed)
    scale = float(found @ computed) / size if size > TINY else host.attention_scale(layer)
    gap = (found - scale * computed).abs().max() / found.abs().max().clamp(min=1e-3)
    if gap > (0.05 if host.dtype in (torch.float16, torch.bfloat16) else 1e-3):
        raise SpliceError(
            f"{where}.hook_attn_scores",
            got=f"scores that differ from scale · q·k by {gap:.2g} of the largest",
            expected="plain or rotary attention, without soft-capped scores or ALiBi",
            do="Circuits cannot be traced through this attention: please report the architecture.",
        )
    return Wiring(rotary=rotary, scale=scale, visible=bare.visible)
