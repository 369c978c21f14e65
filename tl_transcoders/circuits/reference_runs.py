"""Runs of the host with its values read and edited at places, for what is slow and is compared with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Literal, final
from warnings import catch_warnings, filterwarnings

from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import quiet
from tl_transcoders.splice import Spliced

Part = Literal[
    "embed", "q", "k", "v", "z", "mlp_in", "read", "pre", "features", "error", "mlp_out",
    "ln1.hook_scale", "ln2.hook_scale", "ln1_post.hook_scale", "ln2_post.hook_scale", "ln_final.hook_scale", "final",
]  # fmt: skip
Place = tuple[Part, int]
Put = Callable[[Tensor], Tensor]
Edits = Mapping[Place, Sequence[Put]]

CODED: Final[Mapping[Part, str]] = {
    "read": "hook_in",
    "pre": "hook_pre",
    "features": "hook_post",
    "error": "hook_error",
}
NAMES: Final[Mapping[Part, str]] = {
    "embed": "blocks.0.hook_resid_pre",
    **{part: f"blocks.{{layer}}.attn.hook_{part}" for part in ("q", "k", "v", "z")},
    **{
        part: f"blocks.{{layer}}.{part}"
        for part in (
            "ln1.hook_scale",
            "ln2.hook_scale",
            "ln1_post.hook_scale",
            "ln2_post.hook_scale",
        )
    },
    "ln_final.hook_scale": "ln_final.hook_scale",
}
POST_SCALES: Final[tuple[Part, ...]] = ("ln1_post.hook_scale", "ln2_post.hook_scale")
SCALES: Final[tuple[Part, ...]] = (
    "ln1.hook_scale",
    "ln2.hook_scale",
    "ln_final.hook_scale",
    *POST_SCALES,
)


@final
@dataclass(frozen=True, slots=True)
class Runner:
    """Runs a spliced model with its values recorded and edited at places, the user's hooks asleep."""

    spliced: Spliced

    def __post_init__(self) -> None:
        for layer, hooked in self.spliced.hooked.items():
            if hooked.transcoder.cfg.read == hooked.transcoder.cfg.write:
                raise ConfigError(
                    f"layer {layer}",
                    got="an SAE",
                    expected="transcoders only",
                    do="Use path_patch, which knows SAEs too.",
                )

    def everything(self) -> list[Place]:
        """Every place."""
        parts: tuple[Part, ...] = ("q", "k", "v", "z", "mlp_in", "mlp_out", *SCALES[:2])
        return [
            ("embed", 0),
            ("final", 0),
            ("ln_final.hook_scale", 0),
            *((part, layer) for layer in range(self.spliced.host.n_layers) for part in parts),
            *((part, layer) for layer in self.spliced.layers for part in CODED),
            *(
                (part, layer)
                for layer in range(self.spliced.host.n_layers)
                for part in POST_SCALES
                if f"blocks.{layer}.{part}" in self.spliced.model.hook_dict
            ),
        ]

    def run(
        self, tokens: Int[Tensor, "batch pos"], edits: Edits, record: Iterable[Place]
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[Place, Tensor]]:
        """Logits, and what the places to record carried before edits there."""
        host, seen, wanted = self.spliced.host, dict[Place, Tensor](), set(record)
        with (
            quiet(host, keep=self.spliced.torch_hooks),
            ExitStack() as stack,
            catch_warnings(),
        ):
            # The Bridge says that it computes a norm itself where its scale is edited.
            filterwarnings("ignore", message="A forward hook edited hook_scale")
            for place in wanted | set(edits):
                visit = self._visitor(place, edits.get(place, ()), seen if place in wanted else {})
                stack.callback(self._hook(place, visit).remove)
            logits = host.logits(tokens)
        return logits, seen

    def _visitor(self, place: Place, puts: Sequence[Put], seen: dict[Place, Tensor]) -> Put:
        def visit(value: Tensor) -> Tensor:
            shaped = self._by_head(place[0], value)
            seen[place] = shaped.clone()
            if not puts:
                return value
            shaped = shaped.clone()
            for put in puts:
                shaped = put(shaped)
            return shaped.reshape(value.shape)

        return visit

    def _by_head(self, part: Part, value: Tensor) -> Tensor:
        if part not in ("q", "k", "v", "z"):
            return value
        return value.reshape(*value.shape[:2], -1, self.spliced.host.model.cfg.d_head)

    def _hook(self, place: Place, visit: Put) -> Any:
        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return visit(args[0]), *args[1:]

        def after(_: nn.Module, __: object, value: Tensor) -> Tensor:
            return visit(value)

        module = self._module(place)
        if place[0] in ("mlp_in", "final"):
            return module.register_forward_pre_hook(before)
        return module.register_forward_hook(after)

    def _module(self, place: Place) -> nn.Module:
        part, layer = place
        host = self.spliced.host
        if part in CODED:
            return getattr(self.spliced.hooked[layer], CODED[part])
        match part:
            case "mlp_in":
                return host.mlp(layer)
            case "mlp_out":
                return host.hook_point("mlp_out", layer)
            case "final":
                return host.model.ln_final
            case _:
                return host.model.hook_dict[NAMES[part].format(layer=layer)]
