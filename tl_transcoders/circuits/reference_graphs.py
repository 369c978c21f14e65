"""Attribution graphs by the definition, one backward pass for every target: slow, and for comparison with what is fast.

    effect[t ← s] = value of s · ∂ pre(t) / ∂ (value of s)

with attention patterns, norm scales, features, errors and whole MLPs cut off from what they were computed from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

import torch
from torch import Tensor

from tl_transcoders.circuits.nodes import Embed, Error, Feature, Mlp, Node
from tl_transcoders.hosts import quiet
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.forward import Forward, Spot
from tl_transcoders.splice.trace.run import Run, capture
from tl_transcoders.splice.trace.swap import dense

Target = Feature | tuple[int, int | None]
"""A feature at a position; or a token at the last one, less another token or (None) the mean of all."""
LEAVES: Final[frozenset[Spot]] = frozenset({"embed", "features", "error"})


@torch.enable_grad()
def autograd_graph(
    spliced: Spliced,
    tokens: Tensor,
    targets: Sequence[Target],
    *,
    linear: bool = False,
) -> list[dict[Node, float]]:
    """For every target what each embedding, active feature, error and whole MLP does to its pre-activation.

    Where `linear`, MLPs without a transcoder pass gradients on, and their nodes are what they write beyond that.

    ```python
    autograd_graph(spliced, tokens, [Feature(2, 7, 5), (13, None)])
    ```
    """
    run = capture(spliced, tokens)
    cut = Cut(run, linear)
    with quiet(spliced.host):
        cut.run_once()
        return [cut.effects(cut.read(target)) for target in targets]


@final
@dataclass
class Cut:
    """A forward pass of one prompt whose sources are leaves of autograd."""

    run: Run
    linear: bool
    leaves: dict[tuple[Spot, int], Tensor] = field(default_factory=dict)
    values: dict[tuple[Spot, int], Tensor] = field(default_factory=dict)
    streams: dict[tuple[Spot, int], Tensor] = field(default_factory=dict)

    def run_once(self) -> None:
        """Fill leaves and streams."""
        model = replace(self.run.model, anatomy=self.run.model.anatomy.with_constant_scales())
        forward = Forward(
            model=model,
            wirings=self.run.wirings,
            errors="live",
            excluded=self.run.excluded,
            visit=self._visit,
        )
        forward.logits(forward.run(self.run.embed))

    def read(self, target: Target) -> Tensor:
        """A pre-activation, or a logit before its soft cap."""
        anatomy = self.run.model.anatomy.with_constant_scales()
        if isinstance(target, Feature):
            swap = self.run.model.swaps[target.layer]
            x = swap.read(anatomy.blocks[target.layer], self.streams["mlp_in", target.layer])
            return swap.pre_activations(x)[0, target.pos, target.index]
        x = self.streams["logits_in", self.run.model.n_layers]
        logits = (anatomy.ln_final(x) @ anatomy.W_U + anatomy.b_U)[0, -1]
        good, bad = target
        return logits[good] - (logits.mean() if bad is None else logits[bad])

    def effects(self, value: Tensor) -> dict[Node, float]:
        """Value · gradient of every source."""
        leaves = list(self.leaves.values())
        gradients = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        found: dict[Node, float] = {}
        for (place, leaf), gradient in zip(self.leaves.items(), gradients, strict=True):
            if gradient is not None:
                effect = (self.values.get(place, leaf) * gradient).detach()[0]
                for node, part in _named(place, effect).items():
                    found[node] = found.get(node, 0.0) + part
        return found

    def _visit(self, spot: Spot, layer: int, value: Any) -> Any:
        if spot == "pattern":
            return value.detach()
        if spot in LEAVES:
            leaf = dense(value).detach().clone().requires_grad_()
            self.leaves[spot, layer] = leaf
            return leaf
        if spot == "mlp_raw":
            return self._without_original(layer, value)
        if spot in ("mlp_in", "logits_in"):
            self.streams[spot, layer] = value
        return value

    def _without_original(self, layer: int, value: Tensor) -> Tensor:
        """The same, what original MLPs wrote being a leaf: everywhere, or where the splice leaves them in place."""
        if self.linear and layer not in self.run.model.swaps:
            return self._linear(layer, value)
        kept = torch.ones_like(value[..., :1], dtype=torch.bool)
        if layer in self.run.model.swaps:
            if self.run.excluded is None:
                return value
            kept = self.run.excluded[..., None]
        leaf = (value * kept).detach().requires_grad_()
        self.leaves["mlp_raw", layer] = leaf
        return torch.where(kept, leaf, value)

    def _linear(self, layer: int, value: Tensor) -> Tensor:
        """The same, with leaves of zeros beside what the MLP reads and writes: (mlp(x) − J x) · g = mlp(x) · g − x · Jᵀ g."""
        block = self.run.model.anatomy.with_constant_scales().blocks[layer]
        read = block.ln2(self.streams["mlp_in", layer])
        of_read, of_written = torch.zeros_like(read), torch.zeros_like(value)
        self.leaves["mlp_in", layer] = of_read.requires_grad_()
        self.leaves["mlp_raw", layer] = of_written.requires_grad_()
        self.values["mlp_in", layer] = (block.ln2.bias - read).detach()
        self.values["mlp_raw", layer] = value.detach()
        return block.mlp(read + of_read) + of_written


def _named(place: tuple[Spot, int], effect: Tensor) -> Mapping[Node, float]:
    spot, layer = place
    if spot == "features":
        return {
            Feature(layer, int(i), int(pos)): float(effect[pos, i]) for pos, i in effect.nonzero()
        }
    total = effect.sum(-1)
    match spot:
        case "embed":
            return {Embed(pos): float(total[pos]) for pos in range(len(total))}
        case "error":
            return {Error(layer, pos): float(total[pos]) for pos in range(len(total))}
        case _:
            return {Mlp(layer, pos): float(total[pos]) for pos in range(len(total))}
