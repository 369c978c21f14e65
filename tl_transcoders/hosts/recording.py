"""Keeping what a model computes at some sites, for training and evaluation."""

from typing import TYPE_CHECKING, Any, final

from torch import Tensor, nn

from tl_transcoders._types import Site

if TYPE_CHECKING:
    from tl_transcoders.hosts.base import AbstractHost


@final
class Recording:
    """A context in which every forward pass leaves its values at the named sites in a dictionary."""

    def __init__(self, host: "AbstractHost", sites: list[tuple[int, Site]]) -> None:
        self._host, self._sites = host, sites
        self._handles: list[Any] = []

    def __enter__(self) -> dict[tuple[int, Site], Tensor]:
        store: dict[tuple[int, Site], Tensor] = {}
        for layer, site in self._sites:
            self._handles.append(self._record(layer, site, store))
        return store

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _record(self, layer: int, site: Site, store: dict[tuple[int, Site], Tensor]) -> Any:
        def keep(value: Tensor) -> None:
            store[layer, site] = value.detach().reshape(*value.shape[:2], -1)

        def keep_input(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            keep(args[0])

        def keep_output(_: nn.Module, __: object, output: Tensor) -> None:
            keep(output)

        match site:
            case "mlp_in":
                return self._host.mlp(layer).register_forward_pre_hook(keep_input)
            case "mlp_out_raw":
                return self._host.mlp(layer).register_forward_hook(keep_output)
            case _:
                hook_point = self._host.hook_point(site, layer)
                return hook_point.register_forward_hook(keep_output)
