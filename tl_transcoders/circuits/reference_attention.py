"""How much of an edge goes through heads, by removal: slow, and for comparison with what is fast."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs.nodes import GraphNode, NodeTable
from tl_transcoders.circuits.graphs.removal import Removable, Removal
from tl_transcoders.circuits.nodes import Head
from tl_transcoders.splice.trace.run import Run


@torch.no_grad()
def effect_without(
    run: Run, source: Removable, target: GraphNode, held: Sequence[tuple[Head, ...]]
) -> Float[Tensor, " held"]:
    """What a source does to a target when some heads notice nothing of it.

    −Δ target, the source taken out of a pass with frozen patterns, scales, features, errors and MLPs, in which
    the heads of each of the sets given keep what they mixed in the run
    """
    targets = NodeTable.of([target], run.model.n_layers)
    removal = Removal(run, (source,) * len(held), targets, held=tuple(held))
    return -removal.run_all()[:, 0]


def removed_loadings(
    run: Run, source: Removable, target: GraphNode, layer: int
) -> Float[Tensor, " head"]:
    """What each head of a layer does for an edge: how much less of it there is when the head notices nothing.

    ```python
    removed_loadings(graph.run, Feature(2, 7, 5), Token(13, 6), layer=4)
    ```
    """
    n_heads = run.model.anatomy.blocks[layer].attention.n_heads
    each = [(Head(layer, head),) for head in range(n_heads)]
    whole, *without = effect_without(run, source, target, [(), *each]).unbind()
    return whole - torch.stack(without)


def path_by_removal(run: Run, source: Removable, target: GraphNode, via: Sequence[Head]) -> float:
    """The part of an edge that passes exactly through some heads: by inclusion and exclusion over all subsets.

    Σ_{S ⊆ via} (−1)^{|via| − |S|} effect(source → target, all heads but S held)
    """
    subsets = [
        tuple(head for i, head in enumerate(via) if n >> i & 1) for n in range(2 ** len(via))
    ]
    held = [tuple(head for head in _every(run) if head not in subset) for subset in subsets]
    effects = effect_without(run, source, target, held).tolist()
    return sum(
        effect * (-1) ** (len(via) - len(subset))
        for subset, effect in zip(subsets, effects, strict=True)
    )


@torch.no_grad()
def turned_without(
    run: Run, source: Removable, head: Head, side: Literal["q", "k"], pos: int
) -> Float[Tensor, " d_head"]:
    """What a query or key loses when a source is taken out and no head notices: it is computed again, norms' σ kept."""
    removal = Removal(run, (source,), NodeTable.of((), run.model.n_layers), held=(_every(run),))
    change = removal.entering(head.layer)
    block, wiring = run.model.anatomy.blocks[head.layer], run.wirings[head.layer]
    base = run.values["resid_pre", head.layer]
    sigma = block.ln1.scale(base)
    attention = replace(block.attention, q_norm=None, k_norm=None)
    if side == "q":
        project, turn, norm = attention.q, attention.turn_q, block.attention.q_norm
    else:
        project, turn, norm = attention.k, attention.turn_k, block.attention.k_norm
    whole, without = (project(block.ln1(x, sigma)) for x in (base, base + change))
    if norm is not None:
        kept = norm.scale(whole)
        whole, without = norm(whole, kept), norm(without, kept)
    return (turn(whole, wiring) - turn(without, wiring))[0, pos, head.head]


def _every(run: Run) -> tuple[Head, ...]:
    blocks = run.model.anatomy.blocks
    return tuple(
        Head(layer, head)
        for layer, block in enumerate(blocks)
        for head in range(block.attention.n_heads)
    )
