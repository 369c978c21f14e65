"""From scores of families to effects of nodes."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attribution.changes import Changes
from tl_transcoders.circuits.attribution.codes import Codebook
from tl_transcoders.circuits.attribution.ledger import Ledger
from tl_transcoders.circuits.attribution.result import EdgeEffects, NodeEffects
from tl_transcoders.circuits.attribution.score import Family, Scores
from tl_transcoders.circuits.nodes import Node


def per_prompt(
    scores: Scores, changes: Changes, families: frozenset[Family]
) -> Float[Tensor, " batch"]:
    """The sum of the scores of some families, prompt by prompt."""
    batch, length = changes.embed.shape[:2]
    wide = torch.promote_types(changes.embed.dtype, torch.float32)
    total = changes.embed.new_zeros(batch, dtype=wide)
    for family in families:
        score = scores.get(family)
        if score is not None and family[0] == "feature":
            total = total.index_add(0, changes.features[family[1]].row // length, score.to(wide))
        elif score is not None:
            total = total + score.to(wide).flatten(1).sum(1)
    return total


def node_effects(
    scores: Scores, changes: Changes, book: Codebook, *, by_position: bool
) -> NodeEffects:
    """Effects by node, summed over positions unless those are wanted."""
    batch, length = changes.embed.shape[:2]
    nodes: list[Node] = []
    effects: list[Tensor] = []
    for family, score in scores.items():
        parts = (
            _features(family, score, changes, batch, length, by_position)
            if family[0] == "feature"
            else _dense(score, by_position)
        )
        for index, pos, effect in parts:
            places = torch.full_like(index, -1 if pos is None else pos)
            nodes += book.nodes(index + book.first(*family), places)
            effects.append(effect)
    return NodeEffects(nodes=tuple(nodes), effects=torch.cat(effects))


Part = tuple[Tensor, int | None, Tensor]


def _dense(score: Tensor, by_position: bool) -> Iterator[Part]:
    wide = score if score.dim() == 3 else score[..., None]
    index = torch.arange(wide.shape[2], device=score.device)
    if not by_position:
        yield index, None, wide.sum(1).T
        return
    for pos in range(wide.shape[1]):
        yield index, pos, wide[:, pos].T


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
        yield found, pos, effect


def edge_effects(
    ledgers: Sequence[tuple[int | None, Ledger]], book: Codebook, batch: int, limit: int | None
) -> EdgeEffects:
    """The largest edges of ledgers, each of one position or of all."""
    parts, total = [], 0.0
    for pos, ledger in ledgers or [(None, Ledger(book.total))]:
        sender, receiver, score = ledger.settled()
        total += float(score.abs().sum()) / batch
        top = _largest(score, limit)
        place = torch.full_like(top, -1 if pos is None else pos)
        parts.append((sender[top], receiver[top], place, score[top] / batch))
    sender, receiver, place, effects = (torch.cat(part) for part in zip(*parts, strict=True))
    order = _largest(effects, limit)
    positions = len(parts) + 1
    ends = torch.cat([sender[order], receiver[order]]) * positions + place[order].repeat(2) + 1
    found, index = ends.unique(return_inverse=True)
    return EdgeEffects(
        nodes=book.nodes(found // positions, found % positions - 1),
        sender=index[: len(order)],
        receiver=index[len(order) :],
        effects=effects[order],
        total=total,
    )


def _largest(score: Tensor, limit: int | None) -> Tensor:
    n = len(score) if limit is None else min(limit, len(score))
    return score.abs().topk(n).indices
