"""Putting hooked transcoders into a model; every step leaves its undo on the stack."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor, nn

from tl_transcoders._types import ErrorPolicy
from tl_transcoders.hosts import (
    HOOK_NAMES,
    AbstractHost,
    HookPoint,
    Tap,
    site_name,
    watch_passes,
)
from tl_transcoders.splice.coder import Coder, CrossLayer, OwnLayer
from tl_transcoders.splice.error_term import ErrorTerm
from tl_transcoders.splice.forward_state import ForwardState
from tl_transcoders.splice.hooked_transcoder import HookedTranscoder
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)

HOOK_POINTS = ("hook_in", "hook_pre", "hook_post", "hook_error", "hook_out")


@final
@dataclass(frozen=True, slots=True)
class Installation:
    """The modules put in, by layer, the state they share, and the ids of the torch hooks that call them."""

    state: ForwardState
    hooked: dict[int, HookedTranscoder] = field(default_factory=dict)
    torch_hooks: set[int] = field(default_factory=set)


@final
class PassThrough(nn.Module):
    """Stands where a post-norm stood when the transcoder already returns what comes after it."""

    def __init__(self, hook_out: HookPoint | None) -> None:
        super().__init__()
        self.hook_out = HookPoint() if hook_out is None else hook_out

    def forward(self, x: Tensor, **_: object) -> Tensor:
        """x, seen by `hook_out`."""
        return self.hook_out(x)


def install(
    host: AbstractHost,
    transcoders: TranscoderSet | CrossLayerTranscoder,
    error: ErrorPolicy,
    exclude: Tensor | None,
    undo: ExitStack,
) -> Installation:
    """Put every transcoder in its place."""
    cross_layer = isinstance(transcoders, CrossLayerTranscoder)
    state = ForwardState(exclude, first_needed=transcoders.layers[0] if cross_layer else None)
    done = Installation(state)
    if exclude is not None or cross_layer:
        undo.callback(watch_passes(host.model, state))
        handle = host.embed.register_forward_pre_hook(state.embed, with_kwargs=True)
        undo.callback(handle.remove)
    for layer in transcoders.layers:
        module = transcoders if cross_layer else transcoders[layer]
        coder: Coder = (
            CrossLayer(transcoders, layer, state) if cross_layer else OwnLayer(transcoders[layer])
        )
        common = {
            "coder": coder,
            "error": ErrorTerm(error, f"blocks.{layer}"),
            "excluded": None if exclude is None else state.excluded,
        }
        if module.cfg.read == module.cfg.write:
            done.hooked[layer] = _install_sae(host, module, layer, common, done, undo)
        else:
            done.hooked[layer] = _install_transcoder(host, module, layer, common, undo)
    return done


def _install_transcoder(
    host: AbstractHost,
    module: Transcoder | CrossLayerTranscoder,
    layer: int,
    common: dict[str, Any],
    undo: ExitStack,
) -> HookedTranscoder:
    cfg = module.cfg
    mlp = host.mlp(layer)
    post_norm = host.post_norm(layer) if cfg.write == "mlp_out" else None
    outer = host.outer_hook_points(mlp)
    # A hook point goes along only where it will carry the quantity it carried before.
    shared = {
        name: hook_point
        for name, hook_point in outer.items()
        if (name == "hook_in" and cfg.read == "mlp_in")
        or (name == "hook_out" and post_norm is None)
    }
    undo.callback(host.give_up_hook_points(mlp, shared))
    hooked = HookedTranscoder(
        module,
        original=mlp if post_norm is None else nn.Sequential(mlp, post_norm),
        read=_reader(host, cfg, layer, undo),
        **shared,
        **common,
    ).train(mlp.training)
    undo.callback(host.replace(layer, "mlp", hooked, hook_points=_listed(hooked, common)))
    if post_norm is not None:
        _bypass(host, layer, post_norm, undo)
    return hooked


def _install_sae(
    host: AbstractHost,
    module: Transcoder | CrossLayerTranscoder,
    layer: int,
    common: dict[str, Any],
    done: Installation,
    undo: ExitStack,
) -> HookedTranscoder:
    site = module.cfg.read
    hook_point = host.hook_point(site, layer)
    hooked = HookedTranscoder(module, original=nn.Identity(), **common)

    rejoin = host.rejoins(site, layer)
    changes: list[Tensor] = []

    def reconstruct(_: nn.Module, __: object, value: Tensor) -> Tensor:
        y = hooked(value.reshape(*value.shape[:2], -1)).reshape(value.shape)
        if rejoin is not None:
            changes[:] = [y - value]
        return y

    def add_change(_: nn.Module, __: object, value: Tensor) -> Tensor:
        return value + changes.pop()

    name = f"{HOOK_NAMES[site].format(layer=layer)}.sae"
    undo.callback(host.attach(hook_point, name, hooked))
    handle = hook_point.register_forward_hook(reconstruct, prepend=True)
    undo.callback(handle.remove)
    done.torch_hooks.add(handle.id)
    if rejoin is not None:
        handle = rejoin.register_forward_hook(add_change, prepend=True)
        undo.callback(handle.remove)
        done.torch_hooks.add(handle.id)
    return hooked


def _bypass(host: AbstractHost, layer: int, post_norm: nn.Module, undo: ExitStack) -> None:
    hook_out = host.outer_hook_points(post_norm).get("hook_out")
    names = [] if hook_out is None else ["hook_out"]
    undo.callback(host.give_up_hook_points(post_norm, names))
    part = host.post_norm_name(layer)
    undo.callback(host.replace(layer, part, PassThrough(hook_out), hook_points=names))


def _reader(
    host: AbstractHost, cfg: TranscoderConfig | CrossLayerConfig, layer: int, undo: ExitStack
) -> Callable[[], Tensor] | None:
    if cfg.read == "mlp_in":
        return None
    tap = Tap(host.block(layer), host.hook_point(cfg.read, layer), site_name(cfg.read, layer))
    undo.callback(tap.remove)
    return tap.take


def _listed(hooked: HookedTranscoder, common: dict[str, Any]) -> list[str]:
    """Hook points that can fire: those inside the original MLP only where it runs."""
    runs_original = common["error"].policy == "keep" or common["excluded"] is not None
    inside = [
        name
        for name, child in hooked.named_modules()
        if name.startswith("original.") and isinstance(child, HookPoint)
    ]
    return [*HOOK_POINTS, *(inside if runs_original else [])]
