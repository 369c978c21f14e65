"""Why a query attends where it does: the terms of all its scores, by what they do to the head's output."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attention.apart import Parts
from tl_transcoders.circuits.attention.descent import descend
from tl_transcoders.circuits.attention.memory import MEMORY
from tl_transcoders.circuits.attention.passage import Passage
from tl_transcoders.circuits.attention.placed import reading
from tl_transcoders.circuits.attention.prompt import (
    check_head,
    inside,
    run_of,
    unseen,
)
from tl_transcoders.circuits.attention.qk import QKAttribution, attributed
from tl_transcoders.circuits.attention.turned import Turned
from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.nodes import GraphNode, write
from tl_transcoders.circuits.graphs.outcomes import Asked, Target
from tl_transcoders.circuits.graphs.sources import Sources
from tl_transcoders.circuits.nodes import Head
from tl_transcoders.circuits.one_prompt import Prompt
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced


@final
@dataclass(frozen=True, slots=True)
class RowTerm:
    """A term of a row: a source at the query, one at a key, what they add to that score, and to the head's output."""

    query_source: GraphNode
    key_source: GraphNode
    key: int
    term: float
    effect: float


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionRow:
    """The scores of one query over all keys it sees, apart, and what moving each of them does to the head's output.

        ∂z / ∂score[k] = pattern[k] · (v[k] − z)

    `pull[k]` is this behind the head's output weights: its length, or, with a target, what it does to the target to
    first order while everything behind the head is frozen. A constant added to all scores does nothing.
    """

    head: Head
    query: int
    target: GraphNode | None
    pattern: Float[Tensor, " key"]
    scores: Float[Tensor, " key"]
    """−∞ where the query does not see the key."""
    outputs: Float[Tensor, "key d_model"]
    """pattern[k] · (v[k] − z) as the head would write it."""
    pull: Float[Tensor, " key"]
    scale: float
    at_query: Parts
    at_keys: tuple[Parts, ...]

    @property
    def query_sources(self) -> tuple[GraphNode, ...]:
        """What was written at the query."""
        return tuple(self.at_query.nodes)

    @property
    def by_query_source(self) -> Float[Tensor, "query_source key"]:
        """What each source at the query does to every score; 0 where the query does not see the key."""
        keys = torch.stack([part.value.sum(0) for part in self.at_keys])
        terms = self.scale * self.at_query.value @ keys.T
        return terms.masked_fill(self.scores == -torch.inf, 0)

    @property
    def centred(self) -> Float[Tensor, "query_source key"]:
        """The same less its mean over keys, weighted by the pattern: what is left moves attention between keys.

        B[i, k] − Σ_k' pattern[k'] B[i, k']
        """
        by_key = self.by_query_source
        seen = self.scores != -torch.inf
        return (by_key - (by_key @ self.pattern)[:, None]) * seen

    @property
    def query_effects(self) -> Float[Tensor, " query_source"]:
        """What each source at the query does to the output by where it makes the head attend.

        With a target Σ_k pull[k] B[i, k]; without one the length of Σ_k B[i, k] outputs[k].
        """
        if self.target is not None:
            return self.by_query_source @ self.pull
        return (self.by_query_source @ self.outputs).norm(dim=1)

    def key(self, key: int) -> QKAttribution:
        """All terms of one score; ConfigError for a key the query does not see."""
        n = len(self.scores)
        if not -n <= key < n or self.scores[key] == -torch.inf:
            raise unseen(self.head, self.query, key, "AttentionRow.key")
        key %= n
        return attributed(
            self.head,
            (self.query, key),
            parts=(self.at_query, self.at_keys[key]),
            score=float(self.scores[key]),
            scale=self.scale,
            weight=float(self.pattern[key]),
        )

    def top(self, n: int) -> list[RowTerm]:
        """The n terms that move the head's output most: effect = pull[k] · term."""
        check_sizes("AttentionRow.top", n=n)
        found: list[RowTerm] = []
        for key in (self.scores != -torch.inf).nonzero()[:, 0].tolist():
            terms = self.scale * self.at_query.value @ self.at_keys[key].value.T
            best = terms.flatten().abs().topk(min(n, terms.numel())).indices.tolist()
            for i, j in (divmod(at, terms.shape[1]) for at in best):
                found.append(
                    RowTerm(
                        query_source=self.at_query.nodes[i],
                        key_source=self.at_keys[key].nodes[j],
                        key=key,
                        term=float(terms[i, j]),
                        effect=float(terms[i, j] * self.pull[key]),
                    )
                )
        return sorted(found, key=lambda term: -abs(term.effect))[:n]


@torch.no_grad()
def attention_row(
    spliced: Spliced,
    prompt: Prompt,
    *,
    head: Head,
    query: int,
    target: Target | None = None,
    memory: int = MEMORY,
) -> AttentionRow:
    """Why a head attends where it does at one query: `qk_attribution` for all keys, ranked by effect on its output.

        effect = pattern[k] · (v[k] − z) · terms[i, j, k]

    **Arguments:** `target`: a token (id or text), a pair of them, Token, Difference or Feature: effects are then on
    it, to first order, instead of lengths; `memory`: bytes a sweep may take at a time.

    **Raises:** as `qk_attribution`; ConfigError for a target that is not there, or that nothing of the head reaches.

    ```python
    row = attention_row(spliced, prompt, head=Head(5, 1), query=-1, target=" Paris")
    row.top(5), row.centred
    ```
    """
    check_sizes("attention_row", memory=memory)
    run = run_of(spliced, prompt, "attention_row")
    check_head(run, head, "attention_row")
    query = inside(run, query, "attention_row, query")
    frame = Frame.of(run)
    passage, sources = Passage.of(frame), Sources.of(frame, {})
    q, k = (Turned.of(passage, sources, head, side, memory=memory) for side in ("q", "k"))
    wiring, layer = run.wirings[head.layer], head.layer
    seen = wiring.visible[query].to(frame.run.embed.device)
    scores = (wiring.scale * (k.value @ q.value[query])).masked_fill(~seen, -torch.inf)
    pattern = frame.value("pattern", layer)[head.head, query]
    v, z = frame.value("v", layer)[:, head.head], frame.value("z", layer)[query, head.head]
    moved = pattern[:, None] * (v - z)
    outputs = passage.heads[layer].write_one(moved, head.head, query)
    node = None if target is None else Asked(run, "attention_row, target").node(target)
    pull = outputs.norm(dim=1) if node is None else moved @ _gradient(passage, node, head, query)
    return AttentionRow(
        head=head,
        query=query,
        target=node,
        pattern=pattern.cpu(),
        scores=scores.cpu(),
        outputs=outputs.cpu(),
        pull=pull.cpu(),
        scale=wiring.scale,
        at_query=_on_cpu(q.at(query)),
        at_keys=tuple(_on_cpu(k.at(pos)) for pos in range(frame.length)),
    )


def _gradient(
    passage: Passage, target: GraphNode, head: Head, query: int
) -> Float[Tensor, " d_head"]:
    """That of what a head mixes at a position, everything behind it frozen."""
    read, before = reading(passage, target, "attention_row")
    for level in descend(passage, read, before):
        if level.layer == head.layer and bool(level.z[0, query, head.head].any()):
            return level.z[0, query, head.head]
    raise ConfigError(
        "attention_row, target",
        got=f"{write(target)}, which nothing of {write(head)} at position {query} reaches",
        expected="a target behind the head and not before the query",
        do="Choose a feature of a later layer, or a token, at the query or after it.",
    )


def _on_cpu(parts: Parts) -> Parts:
    return Parts(parts.nodes, parts.value.cpu())
