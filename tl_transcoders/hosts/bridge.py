"""TransformerBridge, TransformerLens 3.9 and 4.

Everything here that touches a private attribute of the Bridge does so because it has no public way: a
component is registered three times (in its block, in the block's `submodules`, and inside the wrapped
Hugging Face layer), and its hook points are listed in `_hook_registry`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, final, runtime_checkable

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from tl_transcoders._types import Site
from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts.anatomy import Rotary
from tl_transcoders.hosts.base import AbstractHost
from tl_transcoders.hosts.norm_weights import NormWeights
from tl_transcoders.hosts.registry import (
    Undo,
    hook_points_under,
    name_hook_points,
    rename_under,
)


@runtime_checkable
class KeyValueCache(Protocol):
    """Hugging Face's, seen without importing it."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many positions it holds for a layer."""
        ...


@final
class BridgeHost(AbstractHost):
    """A TransformerBridge, plain or in compatibility mode."""

    @property
    def folded(self) -> bool:
        if not self.model._weights_processed:
            return False
        ln2 = self.model.blocks[0]._modules.get("ln2")
        gain = getattr(ln2, "weight", None)
        return not isinstance(gain, Tensor) or bool((gain == gain.flatten()[0]).all())

    @property
    def centred(self) -> bool:
        return not self.model.cfg.uses_rms_norm

    def modules(self) -> Iterator[nn.Module]:
        # Dropout after the embedding, for one, belongs to the wrapped model alone.
        yield from self.model.modules()
        yield from self.model.original_model.modules()

    def mlp(self, layer: int) -> nn.Module:
        component: Any = self.block(layer)._modules.get("mlp")
        kind = type(component).__name__
        if component is None or "MoE" in kind:
            raise _refusal(layer, kind, "a dense MLP")
        if getattr(component, "name", "") is None:
            raise _refusal(layer, f"{kind} spread over the block", "one module that is the MLP")
        return component

    def post_norm(self, layer: int) -> nn.Module | None:
        return self.block(layer)._modules.get("ln2_post")

    def rejoins(self, site: Site, layer: int) -> HookPoint | None:
        return self.hook_point("resid_post", layer) if site == "resid_mid" else None

    rotary_hooks = ("attn.hook_cos", "attn.hook_sin")

    def attention_weights(self, layer: int) -> dict[str, Tensor | None]:
        module: Any = self.block(layer).attn
        return {
            f"{kind}_{part}": getattr(module, f"{kind}_{part}") for part in "QKVO" for kind in "Wb"
        }

    def rotary(self, layer: int, length: int, seen: Mapping[str, Tensor]) -> Rotary | None:
        cos, sin = (seen.get(f"blocks.{layer}.{name}") for name in self.rotary_hooks)
        if cos is None or sin is None:
            return None
        return Rotary(cos=cos[0], sin=sin[0], adjacent=False)

    def _ln2(self, layer: int) -> NormWeights | None:
        ln2: Any = self.block(layer)._modules.get("ln2")
        if not isinstance(gain := getattr(ln2, "weight", None), Tensor):
            return None
        # TransformerLens 3.9 knows the offset per model only, 4 per norm.
        offset = getattr(ln2, "uses_weight_offset", self.model.cfg.rmsnorm_uses_offset)
        bias = getattr(ln2.original_component, "bias", None)
        return NormWeights(
            (1 + gain if offset else gain).detach().clone(),
            None if bias is None else bias.detach().clone(),
        )

    def positions_before(self, layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        caches = [value for value in (*args, *kwargs.values()) if isinstance(value, KeyValueCache)]
        return caches[0].get_seq_length(layer) if caches else 0

    def outer_hook_points(self, module: nn.Module) -> dict[str, HookPoint]:
        found = {name: module._modules.get(name) for name in ("hook_in", "hook_out")}
        return {name: hook for name, hook in found.items() if isinstance(hook, HookPoint)}

    def give_up_hook_points(self, module: nn.Module, names: Iterable[str]) -> Undo:
        # Straight into the dictionaries: the component's own __setattr__ would rename the hook points.
        registry: dict[str, HookPoint] = module._hook_registry  # pyright: ignore[reportAssignmentType]
        given = {name: registry[name] for name in names}

        def put(hook_points: dict[str, HookPoint]) -> None:
            for name, hook_point in hook_points.items():
                module._modules[name] = hook_point
                registry[name] = hook_point

        put({name: HookPoint() for name in given})
        return lambda: put(given)

    def replace(
        self, layer: int, part: str, module: nn.Module, *, hook_points: Iterable[str]
    ) -> Undo:
        block: Any = self.block(layer)
        original: Any = block._modules[part]
        path = f"blocks.{layer}.{part}"
        parent, attribute = self._inside(block, original.name)

        def put(component: nn.Module) -> None:
            block._modules[part] = component
            block.submodules[part] = component
            setattr(parent, attribute, component)

        put(module)
        undo_names = self._list(path, module, hook_points)

        def undo() -> None:
            undo_names()
            put(original)

        return undo

    def attach(self, hook_point: HookPoint, name: str, module: nn.Module) -> Undo:
        child = name.rsplit(".", 1)[1]
        hook_point.add_module(child, module)
        undo_names = self._list(name, module, None)

        def undo() -> None:
            undo_names()
            del hook_point._modules[child]

        return undo

    def _list(self, path: str, module: nn.Module, hook_points: Iterable[str] | None) -> Undo:
        found = hook_points_under(path, module)
        undo_own_names = name_hook_points(found)
        if hook_points is not None:
            found = {f"{path}.{name}": found[f"{path}.{name}"] for name in hook_points}
        undo_names = rename_under(self.model._hook_registry, path, found)
        self._forget_aliases()

        def undo() -> None:
            undo_names()
            undo_own_names()
            self._forget_aliases()

        return undo

    def _forget_aliases(self) -> None:
        # The cache is keyed by the registry's size, which a swap may leave unchanged.
        self.model._block_alias_cache = None

    def _inside(self, block: Any, name: str) -> tuple[nn.Module, str]:
        *path, attribute = name.split(".")
        parent = block._modules["_original_component"]
        for part in path:
            parent = getattr(parent, part)
        return parent, attribute


def _refusal(layer: int, got: str, expected: str) -> SpliceError:
    do = "Choose another layer or model."
    return SpliceError(f"blocks.{layer}.mlp", got=got, expected=expected, do=do)
