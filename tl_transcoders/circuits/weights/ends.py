"""Where a connection begins and ends: features, tokens, logits."""

from dataclasses import dataclass
from typing import final

from tl_transcoders.circuits.graphs import Difference, Token
from tl_transcoders.circuits.nodes import Embed, Feature, Logits


@final
@dataclass(frozen=True, slots=True)
class Features:
    """All features of a layer."""

    layer: int


Source = Features | Feature | Embed | Token
"""What writes: all features of a layer, one of them, the embeddings of all tokens, that of one token."""
Target = Features | Feature | Logits | Token | Difference
"""What reads: all features of a layer, one of them, the logits of all tokens, that of one, the difference of two."""


def member(end: Source | Target, i: int) -> Feature | Token | Difference:
    """The i-th of the features or tokens an end stands for."""
    match end:
        case Features(layer):
            return Feature(layer, i)
        case Embed() | Logits():
            return Token(i)
        case Feature(layer, index):
            return Feature(layer, index)
        case _:
            return end
