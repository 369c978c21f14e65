"""From scores of families to effects of nodes."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attribution.changes import Changes
from tl_transcoders.circuits.attribution.codes import code, codes, node_of
from tl_transcoders.circuits.attribution.ledger import Ledger
from tl_transcoders.circuits.attribution.result import EdgeEffects, NodeEffects
from tl_transcoders.circuits.attribution.score import Family, Scores
from tl_transcoders.circuits.nodes import Node


def per_prompt(
    scores: Scores, changes: Changes, families: frozenset[Family]
) -> Float[Tensor, " batch"]:
    """The sum of the scores of some families, prompt by prompt."""
    batch, length = changes.embed.shape[:2]
    total = changes.embed.new_zeros(batch)
    for family in families:
        score = scores.get(family)
        if score is not None and family[0] == "feature":
            total = total.index_add(0, changes.features[family[1]].row // length, score)
        elif score is not None:
            total = total + score.flatten(1).sum(1)
    return total


def node_effects(scores: Scores, changes: Changes, *, by_position: bool) -> NodeEffects:
    """Effects by node, summed over positions unless those are wanted."""
    batch, length = changes.embed.shape[:2]
    nodes: list[Node] = []
    effects: list[Tensor] = []
    for family, score in scores.items():
        parts = (
            _features(family, score, changes, batch, length, by_position)
            if family[0] == "feature"
            else _dense(family, score, by_position)
        )
        for coded, pos, effect in parts:
            nodes += [node_of(c, pos) for c in coded.tolist()]
            effects.append(effect)
    return NodeEffects(nodes=tuple(nodes), effects=torch.cat(effects))


Part = tuple[Tensor, int | None, Tensor]


def _dense(family: Family, score: Tensor, by_position: bool) -> Iterator[Part]:
    wide = score if score.dim() == 3 else score[..., None]
    coded = codes(*family, wide.shape[2], score.device)
    if not by_position:
        yield coded, None, wide.sum(1).T
        return
    for pos in range(wide.shape[1]):
        yield coded, pos, wide[:, pos].T


def _features(
    family: Family, score: Tensor, changes: Changes, batch: int, length: int, by_position: bool
) -> Iterator[Part]:
    some = changes.features[family[1]]
    at = some.row % length
    for pos in range(length) if by_position else [None]:
        kept = torch.ones_like(at, dtype=torch.bool) if pos is None else at == pos
        found, node = some.index[kept].unique(return_inverse=True)
        effect = score.new_zeros(len(found), batch)
        prompt = some.row[kept] // length
        effect = effect.index_put((node, prompt), score[kept], accumulate=True)
        yield found + code(*family), pos, effect


def edge_effects(
    ledgers: list[tuple[int | None, Ledger]], batch: int, limit: int | None
) -> EdgeEffects:
    """The largest edges of ledgers, each of one position or of all."""
    best: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    total = 0.0
    for pos, ledger in ledgers or [(None, Ledger())]:
        total += float(ledger.score.abs().sum()) / batch
        n = len(ledger.score) if limit is None else min(limit, len(ledger.score))
        top = ledger.score.abs().topk(n).indices
        place = torch.full_like(top, -1 if pos is None else pos)
        best.append((ledger.sender[top], ledger.receiver[top], place, ledger.score[top] / batch))
    sender, receiver, place, effects = (torch.cat(part) for part in zip(*best, strict=True))
    n = len(effects) if limit is None else min(limit, len(effects))
    order = effects.abs().topk(n).indices
    ends = torch.stack([torch.cat([sender[order], receiver[order]]), place[order].repeat(2)])
    found, index = ends.unique(dim=1, return_inverse=True)
    nodes = tuple(node_of(coded, None if pos < 0 else pos) for coded, pos in found.T.tolist())
    return EdgeEffects(
        nodes=nodes,
        sender=index[:n],
        receiver=index[n:],
        effects=effects[order],
        total=total,
    )
