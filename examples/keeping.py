"""What is left of a metric when a few units are kept and all others stand still.

Features of a transcoder have the hook names of the neurons they stand for, so that everything here serves both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_transcoders import Spliced
from tl_transcoders.circuits.tasks import Task

Hook = tuple[str, Callable[..., Tensor]]
Masks = Mapping[str, Bool[Tensor, "pos unit"]]
"""For some hook points, which units of which positions are replaced."""
Values = Mapping[str, Float[Tensor, "batch pos unit *d"]]
"""For some hook points, what the model computes there, or what is put there; a batch of one serves all prompts."""
StandIn = Literal["mean", "source"]
"""What replaces a unit: its mean over the base prompts, or its value in the source prompt."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """The features, or neurons, of a layer at one position."""

    layer: int
    pos: int

    @property
    def hook(self) -> str:
        """The hook point that carries them."""
        return f"blocks.{self.layer}.mlp.hook_post"


Unit = tuple[Place, int]


def seen(model: Any, task: Task, names: Sequence[str], stand_in: StandIn | None = None) -> Values:
    """What hook points carry on the base prompts, or what stands in for it."""
    tokens = task.source if stand_in == "source" else task.base
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names)
    values = {name: cache[name] for name in names}
    if stand_in == "mean":
        return {name: value.mean(0, keepdim=True) for name, value in values.items()}
    return values


def score(model: Any, task: Task, hooks: Sequence[Hook] = ()) -> float:
    """The mean metric of the base prompts under some hooks."""
    return float(task.metric(model.run_with_hooks(task.base, fwd_hooks=list(hooks))).mean())


def replacing(masks: Masks, values: Values) -> list[Hook]:
    """Hooks that put `values` where `masks` are true."""

    def hook_of(name: str) -> Hook:
        mask, value = masks[name], values[name]
        where = mask.view(*mask.shape, *[1] * (value.ndim - 3))
        return name, lambda x, hook: torch.where(where, value, x)

    return [hook_of(name) for name in masks]


def rows_of(spliced: Spliced) -> Mapping[int, Float[Tensor, "feature d"]]:
    """The decoder of every layer."""
    return {layer: spliced.hooked[layer].transcoder.W_dec for layer in spliced.layers}


def by_variance(
    carried: Values, places: Sequence[Place], decoders: Mapping[int, Float[Tensor, "unit d"]]
) -> list[Unit]:
    """The units of some places by the variance of what each writes, largest first.

        Var over prompts of a[i] · ‖W_dec[i]‖²

    With decoder rows of length 1, as in Dunefsky et al. 2024, that is the variance of the activation they rank by.
    Elsewhere the scale of an activation means nothing without its row.
    """
    spread = [
        carried[place.hook][:, place.pos].var(0) * decoders[place.layer].square().sum(1)
        for place in places
    ]
    owners = [(p, i) for p, s in zip(places, spread, strict=True) for i in range(len(s))]
    return [owners[i] for i in torch.cat(spread).argsort(descending=True).tolist()]


def by_effect(model: Any, task: Task, place: Place) -> list[Unit]:
    """The units of a place by the size of their effect in attribution patching, largest first.

    effect[i] = mean over prompts of (a_source[i] − a_base[i]) · ∂m/∂a[i]
    """
    leaves: list[Tensor] = []

    def watch(x: Tensor, hook: object) -> Tensor:
        leaves.append(x.detach().requires_grad_())
        return leaves[-1]

    with torch.enable_grad():
        logits = model.run_with_hooks(task.base, fwd_hooks=[(place.hook, watch)])
        (gradient,) = torch.autograd.grad(task.metric(logits).sum(), leaves)
    change = seen(model, task, [place.hook], "source")[place.hook] - leaves[0].detach()
    effect = (change * gradient)[:, place.pos].mean(0)
    return [(place, i) for i in effect.abs().argsort(descending=True).tolist()]


def curve(
    model: Any, task: Task, ranked: Sequence[Unit], *, sizes: Sequence[int], stand_in: StandIn
) -> list[float]:
    """The metric with the first n units kept and all others of their places replaced, for every n."""
    places = {place for place, _ in ranked}
    values = seen(model, task, [place.hook for place in places], stand_in)
    scores = []
    for n in sizes:
        masks = {name: torch.zeros(x.shape[1:3], dtype=torch.bool) for name, x in values.items()}
        for place, unit in ranked[n:]:
            masks[place.hook][place.pos, unit] = True
        scores.append(score(model, task, replacing(masks, values)))
    return scores
