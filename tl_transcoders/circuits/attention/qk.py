"""Why a head's attention score is what it is: terms of what was written at the query times what was written at the key."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attention.apart import Parts
from tl_transcoders.circuits.attention.memory import MEMORY
from tl_transcoders.circuits.attention.passage import Passage
from tl_transcoders.circuits.attention.prompt import (
    check_head,
    inside,
    run_of,
    unseen,
)
from tl_transcoders.circuits.attention.turned import Turned
from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.nodes import GraphNode
from tl_transcoders.circuits.graphs.sources import Sources
from tl_transcoders.circuits.nodes import Head
from tl_transcoders.circuits.one_prompt import Prompt
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.splice import Spliced


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QKAttribution:
    """A score, before the softmax, as a sum over pairs of sources: Σ terms = score.

    `gap` is |Σ terms − score| in units of Σ |terms|. `Bias(l)` is what layer l adds whatever it reads; that of the
    head's own layer also what its query and key add.
    """

    head: Head
    query: int
    key: int
    score: float
    weight: float
    """What the softmax makes of the score: how much the query attends to the key."""
    query_sources: tuple[GraphNode, ...]
    key_sources: tuple[GraphNode, ...]
    terms: Float[Tensor, "query_source key_source"]
    gap: float

    @property
    def by_query_source(self) -> Float[Tensor, " query_source"]:
        """What each source at the query does to the score, with all of the key."""
        return self.terms.sum(1)

    @property
    def by_key_source(self) -> Float[Tensor, " key_source"]:
        """What each source at the key does to the score, with all of the query."""
        return self.terms.sum(0)

    def top(self, n: int) -> list[tuple[GraphNode, GraphNode, float]]:
        """The n largest terms, as source at the query, source at the key, and term."""
        check_sizes("QKAttribution.top", n=n)
        width = len(self.key_sources)
        best = self.terms.flatten().abs().topk(min(n, self.terms.numel())).indices.tolist()
        return [
            (
                self.query_sources[i // width],
                self.key_sources[i % width],
                float(self.terms[i // width, i % width]),
            )
            for i in best
        ]


@torch.no_grad()
def qk_attribution(
    spliced: Spliced,
    prompt: Prompt,
    *,
    head: Head,
    query: int,
    key: int,
    memory: int = MEMORY,
) -> QKAttribution:
    """A head's attention score, split over pairs of a source at the query and a source at the key.

        terms[i, j] = c · turned_q(w_i) · turned_k(w_j)        Σ_i w_i = the stream at the query, Σ_j w_j at the key

    c is the model's scale, 1/√d_head in most. Sources are embeddings, features, errors, whole MLPs, heads of earlier
    layers as they wrote, and biases. What a skip connection passes on counts for what it passed on. Norm scales,
    those of queries and keys included, stay what they were; their gains and the rotation are part of `turned`.

    **Arguments:** `prompt`: a text, token ids, or a run; `query`, `key`: positions, from the end where negative; `memory`: bytes
    a sweep may take at a time.

    Source: Ameisen et al. 2025, Circuit Tracing (updates of July 2025, QK attributions).

    **Raises:** ConfigError for a head or position that is not there; SpliceError for soft-capped scores (Gemma 2),
    which are no sum of such terms, and for a splice with SAEs.

    ```python
    found = qk_attribution(spliced, prompt, head=Head(5, 1), query=-1, key=3)
    found.score, found.top(5)
    ```
    """
    check_sizes("qk_attribution", memory=memory)
    run = run_of(spliced, prompt, "qk_attribution")
    check_head(run, head, "qk_attribution")
    query, key = (
        inside(run, query, "qk_attribution, query"),
        inside(run, key, "qk_attribution, key"),
    )
    if not run.wirings[head.layer].visible[query, key]:
        raise unseen(head, query, key, "qk_attribution, key")
    frame = Frame.of(run)
    passage, sources = Passage.of(frame), Sources.of(frame, {})
    q, k = (Turned.of(passage, sources, head, side, memory=memory) for side in ("q", "k"))
    scale = frame.run.wirings[head.layer].scale
    return attributed(
        head,
        (query, key),
        parts=(q.at(query), k.at(key)),
        score=scale * float(q.value[query] @ k.value[key]),
        scale=scale,
        weight=float(frame.value("pattern", head.layer)[head.head, query, key]),
    )


def attributed(
    head: Head,
    pair: tuple[int, int],
    *,
    parts: tuple[Parts, Parts],
    score: float,
    scale: float,
    weight: float,
) -> QKAttribution:
    """The terms of a query's and a key's parts."""
    at_query, at_key = parts
    terms = scale * (at_query.value @ at_key.value.T)
    size = float(terms.abs().sum())
    return QKAttribution(
        head=head,
        query=pair[0],
        key=pair[1],
        score=score,
        weight=weight,
        query_sources=tuple(at_query.nodes),
        key_sources=tuple(at_key.nodes),
        terms=terms.cpu(),
        gap=abs(float(terms.sum()) - score) / max(size, 1e-30),
    )
