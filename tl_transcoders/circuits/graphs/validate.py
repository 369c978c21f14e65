"""A graph against the model itself: nodes are taken away, and targets read again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs.removal import Removable, Removal
from tl_transcoders.splice.trace.run import Run

if TYPE_CHECKING:
    from tl_transcoders.circuits.graphs.graph import Graph


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validation:
    """What removing each of some nodes did, with everything frozen and with the model free to react.

    Frozen, every target must change by −effect: `found` and `expected`. Live, all is computed again, errors as the
    splice says, as in `intervene`: `live` is what became of the outcomes, `predicted` what the graph says over all
    paths together, −`Graph.total_effects`. Where something was left out of a target's row, a graph says nothing of
    sources without an edge: `expected` is NaN there.
    """

    removed: tuple[Removable, ...]
    found: Float[Tensor, "removed target"]
    expected: Float[Tensor, "removed target"]
    live: Float[Tensor, "removed outcome"]
    predicted: Float[Tensor, "removed outcome"]
    influence: Float[Tensor, " removed"]
    weight: Float[Tensor, " outcome"]

    @property
    def gap(self) -> float:
        """The largest difference between frozen and expected, in units of the largest edge."""
        largest = float(self.expected.nan_to_num().abs().max())
        apart = (self.found - self.expected)[~self.expected.isnan()]
        return float(apart.abs().max()) / max(largest, 1e-30) if len(apart) else 0.0

    @property
    def rank_correlation(self) -> float:
        """Spearman's, between predicted and live changes of all outcomes; NaN where all of either are the same."""
        return spearman(self.predicted.flatten(), self.live.flatten())

    @property
    def influence_correlation(self) -> float:
        """Spearman's, between the influence of a node and how far the outcomes move without it: Σ weight · |live|."""
        return spearman(self.influence, self.live.double().abs() @ self.weight)


@torch.no_grad()
def validate(graph: "Graph", run: Run, n: int, seed: int) -> Validation:
    """Remove n random nodes, one in every row of two passes: all else frozen, and live."""
    (writers,) = (
        graph.nodes.is_a("embed", "feature", "error", "mlp", "head")
        & torch.isin(torch.arange(len(graph.nodes)), graph.source.long())
    ).nonzero(as_tuple=True)
    shuffled = torch.randperm(len(writers), generator=torch.Generator().manual_seed(seed))
    chosen = writers[shuffled[:n]]
    heads = graph.nodes.is_a("head")
    (targets,) = (~graph.value.isnan() & ~heads).nonzero(as_tuple=True)
    nodes = tuple(node for node in graph.nodes.take(chosen) if isinstance(node, Removable))
    (outcomes,) = (graph.weight > 0).nonzero(as_tuple=True)
    untold = (graph.left_out != 0).expand(len(chosen), -1)
    expected = graph.effect.new_zeros(len(chosen), len(graph.nodes))
    expected = expected.masked_fill(untold, float("nan"))
    for row, source in enumerate(chosen):
        here = graph.source == source
        expected[row, graph.target[here].long()] = -graph.effect[here]
    return Validation(
        removed=nodes,
        found=Removal(run, nodes, graph.nodes.take(targets), held=(graph.cut,) * len(nodes))
        .run_all()
        .cpu(),
        expected=expected[:, targets],
        live=Removal(run, nodes, graph.nodes.take(outcomes), live=True).run_all().cpu(),
        predicted=-graph.total_effects()[chosen],
        influence=graph.influence()[chosen],
        weight=graph.weight[outcomes],
    )


def spearman(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """The correlation of ranks, equal values sharing the mean of theirs."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    sizes = ranks.norm(dim=1)
    return float((ranks[0] @ ranks[1]) / sizes.prod()) if sizes.all() else float("nan")


def _ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    _, which, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[which]
