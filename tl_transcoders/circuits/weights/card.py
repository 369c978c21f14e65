"""All that the weights say about one feature, on one page."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch

from tl_transcoders.circuits.graphs import Token
from tl_transcoders.circuits.nodes import Embed, Feature, Head, Logits, write_node
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.circuits.weights.connections import Connections, strongest
from tl_transcoders.circuits.weights.ends import Features, Source
from tl_transcoders.circuits.weights.heads import HeadMap, norms
from tl_transcoders.circuits.weights.stream import Stream
from tl_transcoders.circuits.weights.via import Via
from tl_transcoders.circuits.weights.way import Way
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureCard:
    """What a feature reads and writes by its weights; the strongest of everything, both signs.

    `tokens` are those whose embeddings it reads, `features[layer]` the earlier features, `heads` the heads by the norm
    of what they move there, `tokens_by_head` and `features_by_head` what the first of them move; `logits` what it
    writes to. `str(card)` is a page of text.
    """

    feature: Feature
    tokens: Connections
    features: dict[int, Connections]
    heads: HeadMap
    tokens_by_head: dict[Head, Connections]
    features_by_head: dict[tuple[Head, int], Connections]
    logits: Connections
    words: dict[int, str]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{write_node(self.feature)} reads"
        yield self._line("tokens", self.tokens, at_source=True)
        for layer, found in self.features.items():
            yield self._line(f"layer {layer}", found, at_source=True)
        for head in self.tokens_by_head:
            norm = float(self.heads.value[head.layer, head.head])
            yield f"  through {write_node(head)}, norm {norm:.3g}"
            yield "  " + self._line("tokens", self.tokens_by_head[head], at_source=True)
            for (other, layer), found in self.features_by_head.items():
                if other == head:
                    yield "  " + self._line(f"layer {layer}", found, at_source=True)
        yield f"{write_node(self.feature)} writes"
        yield self._line("logits", self.logits, at_source=False)

    def _line(self, what: str, found: Connections, *, at_source: bool) -> str:
        ends = ((source if at_source else target, value) for source, target, value in found)
        return f"  {what}: " + ", ".join(f"{self._word(end)} {value:+.3g}" for end, value in ends)

    def _word(self, end: object) -> str:
        if isinstance(end, Token):
            return self.words[end.token]
        assert isinstance(end, Feature)
        return write_node(end)


@torch.no_grad()
def feature_card(
    spliced: Spliced, feature: Feature, *, k: int = 7, n_heads: int = 2
) -> FeatureCard:
    """What a feature reads, straight and through the heads that move most to it, and which logits it writes to.

    All of it is `connections` and `ov_norms`; nothing here depends on an input.

    Source: Dunefsky et al. 2024, Transcoders find interpretable LLM feature circuits, section 4.3.

    **Raises:** ConfigError for a feature that is not there, or a k or n_heads below 1.

    ```python
    print(feature_card(spliced, Feature(5, 1207)))
    ```
    """
    check_sizes("feature_card", k=k, n_heads=n_heads)
    if not isinstance(feature, Feature) or feature.pos is not None:
        raise ConfigError(
            "feature_card, feature",
            got=repr(feature),
            expected="a Feature without a position",
            do="Write feature_card(spliced, Feature(5, 1207)).",
        )
    stream = Stream(spliced)
    heads = norms(stream, None, feature)
    first = [head for head, _ in heads.top(n_heads)]
    earlier = [layer for layer in spliced.layers if layer < feature.layer]

    def into(source: Source, via: Via = "residual") -> Connections:
        return strongest(Way.of(stream, source, feature, via), k=k)

    tokens, by_head = into(Embed()), {head: into(Embed(), head) for head in first}
    logits = strongest(Way.of(stream, feature, Logits(), "residual"), k=k)
    ids = {int(i) for found in (tokens, *by_head.values()) for i in found.source}
    word = _words(spliced)
    return FeatureCard(
        feature=feature,
        tokens=tokens,
        features={layer: into(Features(layer)) for layer in earlier},
        heads=heads,
        tokens_by_head=by_head,
        features_by_head={
            (head, layer): into(Features(layer), head)
            for head in first
            for layer in earlier
            if layer < head.layer
        },
        logits=logits,
        words={i: word(i) for i in ids | set(logits.target.tolist())},
    )


def _words(spliced: Spliced) -> Callable[[int], str]:
    """The text of a token, quoted; its id where the model has no tokenizer."""
    tokenizer: Any = spliced.host.tokenizer
    return str if tokenizer is None else lambda i: repr(tokenizer.decode([i]))
