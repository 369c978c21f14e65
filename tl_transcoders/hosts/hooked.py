"""HookedTransformer, TransformerLens 3.9."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

import torch
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
    named_modules_under,
    rename_under,
)


@final
class HookedHost(AbstractHost):
    """A HookedTransformer: plain module attributes, and hook points listed in two dictionaries."""

    @property
    def folded(self) -> bool:
        return str(self.model.cfg.normalization_type).endswith("Pre")

    @property
    def centred(self) -> bool:
        return str(self.model.cfg.normalization_type).startswith("LN")

    @property
    def dtype(self) -> torch.dtype:
        return self.model.cfg.dtype

    def modules(self) -> Iterator[nn.Module]:
        return self.model.modules()

    def mlp(self, layer: int) -> nn.Module:
        block: Any = self.block(layer)
        if self.model.cfg.attn_only or self.model.cfg.num_experts:
            raise SpliceError(
                f"blocks.{layer}.mlp",
                got="no MLP" if self.model.cfg.attn_only else "a mixture of experts",
                expected="a dense MLP",
                do="Choose a model with dense MLPs.",
            )
        return block.mlp

    def post_norm(self, layer: int) -> nn.Module | None:
        block: Any = self.block(layer)
        return block.ln2_post if self.model.cfg.use_normalization_before_and_after else None

    def rejoins(self, site: Site, layer: int) -> HookPoint | None:
        return None

    def attention_weights(self, layer: int) -> dict[str, Tensor | None]:
        module: Any = self.block(layer).attn
        shared = {"W_K", "b_K", "W_V", "b_V"} if hasattr(module, "_W_K") else set()
        names = [f"{kind}_{part}" for part in "QKVO" for kind in "Wb"]
        return {name: getattr(module, f"_{name}" if name in shared else name) for name in names}

    def rotary(self, layer: int, length: int, seen: Mapping[str, Tensor]) -> Rotary | None:
        module: Any = self.block(layer).attn
        if self.model.cfg.positional_embedding_type != "rotary":
            return None
        return Rotary(
            cos=module.rotary_cos[:length],
            sin=module.rotary_sin[:length],
            adjacent=self.model.cfg.rotary_adjacent_pairs,
        )

    def _ln2(self, layer: int) -> NormWeights | None:
        ln2: Any = self.block(layer)._modules.get("ln2")
        if not isinstance(gain := getattr(ln2, "w", None), Tensor):
            return None
        bias = getattr(ln2, "b", None)
        return NormWeights(gain.detach().clone(), None if bias is None else bias.detach().clone())

    def positions_before(self, layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        entry = kwargs.get("past_kv_cache_entry")
        return 0 if entry is None else entry.past_keys.shape[1]

    def outer_hook_points(self, module: nn.Module) -> dict[str, HookPoint]:
        return {}

    def give_up_hook_points(self, module: nn.Module, names: Iterable[str]) -> Undo:
        return lambda: None

    def replace(
        self, layer: int, part: str, module: nn.Module, *, hook_points: Iterable[str]
    ) -> Undo:
        block, path = self.block(layer), f"blocks.{layer}.{part}"
        original = getattr(block, part)
        setattr(block, part, module)
        undo_names = self._list(path, module, hook_points)

        def undo() -> None:
            undo_names()
            setattr(block, part, original)

        return undo

    def attach(self, hook_point: HookPoint, name: str, module: nn.Module) -> Undo:
        path, child = name.rsplit(".", 1)
        hook_point.add_module(child, module)
        undo_names = self._list(f"{path}.{child}", module, None)

        def undo() -> None:
            undo_names()
            del hook_point._modules[child]

        return undo

    def _list(self, path: str, module: nn.Module, hook_points: Iterable[str] | None) -> Undo:
        found = hook_points_under(path, module)
        undo_own_names = name_hook_points(found)
        if hook_points is not None:
            found = {f"{path}.{name}": found[f"{path}.{name}"] for name in hook_points}
        modules = named_modules_under(path, module)
        for name, child in modules.items():
            if not hasattr(child, "name"):
                child.name = name  # pyright: ignore[reportArgumentType]  # TransformerLens names every module
        undo_hooks = rename_under(self.model.hook_dict, path, found)
        others = {n: m for n, m in modules.items() if not isinstance(m, HookPoint)}
        undo_modules = rename_under(self.model.mod_dict, path, {**others, **found})
        original = self.model.mod_dict.get(path)
        self.model.mod_dict[path] = module

        def undo() -> None:
            undo_modules()
            undo_hooks()
            undo_own_names()
            if original is None:
                del self.model.mod_dict[path]
            else:
                self.model.mod_dict[path] = original

        return undo
