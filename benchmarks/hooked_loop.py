"""Path patching as one writes it with TransformerLens' hooks: a forward or two for every sender.

Everything after the sender is held at the base run's values by hooks on what attention and MLPs write; transcoders
are held at their features and errors, because their skip connections are wires. Nothing is hooked before the sender:
there the run is the base run. Only the logits of the last position are computed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from tl_transcoders.circuits.metrics import AbstractMetric
from tl_transcoders.circuits.nodes import Feature, Head, Logits, Node

Hook = tuple[str, Callable[..., Any]]


class HookedLoop:
    """A spliced model with its base and source runs cached; `coded` are the layers that have transcoders."""

    def __init__(
        self, model: Any, base: Tensor, source: Tensor, metric: AbstractMetric, coded: Sequence[int]
    ) -> None:
        self.model, self.tokens, self.metric, self.coded = model, base, metric, set(coded)
        self.n_layers, self.n_heads = model.cfg.n_layers, model.cfg.n_heads
        names = [name for hooks in map(self._held, range(self.n_layers)) for name in hooks]
        names += [f"blocks.{i}.attn.hook_{part}" for i in range(self.n_layers) for part in "zq"]
        _, self.ours = model.run_with_cache(base, names_filter=names)
        _, self.theirs = model.run_with_cache(source, names_filter=names)
        self.base = self._measure([])

    def effect(self, sender: Node, receiver: Node) -> Tensor:
        """m(base with the receiver as if the sender were that of the source run) − m(base), of every prompt."""
        match receiver:
            case Logits():
                patched = self._measure(self._patched(sender, self.n_layers))
            case Head(layer, head, "q"):
                q = self._queries(sender, layer)
                name = f"blocks.{layer}.attn.hook_q"
                put = partial(self._put_head, value=q, head=head)
                patched = self._measure([(name, put)])
            case _:
                raise ValueError(f"{receiver}: the loop knows the logits and queries as receivers")
        return patched - self.base

    def _queries(self, sender: Node, layer: int) -> Tensor:
        kept: list[Tensor] = []

        def keep(q: Tensor, hook: object) -> None:
            kept.append(q)

        hooks = [*self._patched(sender, layer), (f"blocks.{layer}.attn.hook_q", keep)]
        self.model.run_with_hooks(self.tokens, fwd_hooks=hooks, stop_at_layer=layer + 1)
        return kept[0]

    def _measure(self, hooks: list[Hook]) -> Tensor:
        logits = self.model.run_with_hooks(self.tokens, fwd_hooks=hooks, logits_to_keep=1)
        return self.metric(logits)

    def _patched(self, sender: Node, stop: int) -> list[Hook]:
        """The sender at its source value, everything after it up to a layer at its base values."""
        match sender:
            case Head(layer, head):
                z = f"blocks.{layer}.attn.hook_z"
                put = (z, partial(self._put_head, value=self.theirs[z], head=head))
                held = [put, *self._hold(layer)[1:]]
            case Feature(layer, index):
                post = f"blocks.{layer}.mlp.hook_post"
                changed = self.ours[post].clone()
                changed[..., index] = self.theirs[post][..., index]
                held = [(post, partial(_always, changed)), self._hold(layer)[2]]
            case _:
                raise ValueError(f"{sender}: the loop knows heads and features as senders")
        return held + [hook for later in range(layer + 1, stop) for hook in self._hold(later)]

    def _hold(self, layer: int) -> list[Hook]:
        return [(name, partial(_always, self.ours[name])) for name in self._held(layer)]

    def _held(self, layer: int) -> list[str]:
        """What attention writes, then what the MLP writes, or the features and the error of a transcoder."""
        written = ["mlp.hook_post", "mlp.hook_error"] if layer in self.coded else ["hook_mlp_out"]
        return [f"blocks.{layer}.{part}" for part in ("hook_attn_out", *written)]

    def _put_head(self, x: Tensor, hook: object, *, value: Tensor, head: int) -> Tensor:
        by_head = x.clone().view(*x.shape[:2], self.n_heads, -1)
        by_head[:, :, head] = value.reshape(by_head.shape)[:, :, head]
        return by_head.view(x.shape)


def _always(value: Tensor, _: Tensor, hook: object) -> Tensor:
    return value
