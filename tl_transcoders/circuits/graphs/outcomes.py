"""What a graph explains: chosen by the caller, or the most probable next tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs.nodes import Difference, Outcome, Token, write
from tl_transcoders.circuits.nodes import Feature
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice.trace.run import Run

Word = int | str
Target = Word | tuple[Word, Word] | Outcome


@final
@dataclass(frozen=True, slots=True)
class TopTokens:
    """The most probable next tokens: as few as have `mass` of the probability together, at most n."""

    n: int = 10
    mass: float = 0.95
    pos: int = -1

    def __post_init__(self) -> None:
        if self.n < 1 or not 0 < self.mass <= 1:
            raise ConfigError(
                "TopTokens",
                got=f"n={self.n}, mass={self.mass}",
                expected="one token or more, and a mass between 0 and 1",
                do="Write TopTokens(10, 0.95).",
            )


@final
@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes, and how much each counts in influence: a token its probability, others 1."""

    nodes: tuple[Outcome, ...]
    weight: Float[Tensor, " outcome"]
    vocabulary: dict[int, str]
    """The text of the tokens among them."""

    @classmethod
    def of(cls, run: Run, targets: TopTokens | Sequence[Target]) -> "Outcomes":
        """Those asked for, checked; raises ConfigError for what the model or the prompt does not have."""
        if isinstance(targets, str) or not isinstance(targets, TopTokens | Sequence):
            raise _refusal(repr(targets), "a list of targets", "Put it into a list.")
        if isinstance(targets, TopTokens):
            nodes = _top(run, targets)
        else:
            nodes = tuple(dict.fromkeys(_outcome(run, target) for target in targets))
        if not nodes:
            raise _refusal("none", "one target or more", "Leave targets out for the top tokens.")
        weight = torch.tensor([_weight(run, node) for node in nodes]).double()
        return cls(nodes, weight, _vocabulary(run, nodes))


def _top(run: Run, top: TopTokens) -> tuple[Token, ...]:
    pos = _inside(run, top.pos)
    p, token = run.logits[0, pos].double().softmax(-1).topk(min(top.n, run.logits.shape[-1]))
    n = int((p.cumsum(0) < top.mass).sum()) + 1
    return tuple(Token(int(i), pos) for i in token[:n])


def _outcome(run: Run, target: Any) -> Outcome:
    match target:
        case bool():
            pass
        case int() | str():
            return Token(_token(run, target), _inside(run, -1))
        case (int() | str() as good, int() | str() as bad):
            return Difference(_token(run, good), _token(run, bad), _inside(run, -1))
        case Token(token, pos):
            return Token(_token(run, token), _inside(run, pos))
        case Difference(good, bad, pos):
            return Difference(_token(run, good), _token(run, bad), _inside(run, pos))
        case Feature(layer, index, pos):
            _check_feature(run, target)
            return Feature(layer, index, _inside(run, -1 if pos is None else pos))
        case _:
            pass
    raise _refusal(
        repr(target),
        "a token (id or text), a pair of tokens, Token, Difference or Feature",
        'Write targets=["w", ("w", "v"), tlt.Feature(3, 7, -1)].',
    )


def _token(run: Run, word: Word) -> int:
    vocab = run.logits.shape[-1]
    if isinstance(word, str):
        found = run.spliced.model.to_tokens(word, prepend_bos=False)[0].tolist()
        if len(found) != 1:
            raise _refusal(
                f"{word!r}, which is {len(found)} tokens", "one token", "Mind the space before it."
            )
        return found[0]
    if not 0 <= word < vocab:
        raise _refusal(
            f"token {word}", f"a token of the vocabulary, 0 to {vocab - 1}", "Correct it."
        )
    return word


def _inside(run: Run, pos: int) -> int:
    length = run.shape[1]
    if not -length <= pos < length:
        raise _refusal(f"position {pos}", f"one of {length}", "Choose a position of the prompt.")
    return pos % length


def _check_feature(run: Run, node: Feature) -> None:
    swap = run.model.swaps.get(node.layer)
    if swap is None:
        spliced = sorted(run.model.swaps)
        raise _refusal(write(node), f"a feature of layers {spliced}", "Choose a spliced layer.")
    if not 0 <= node.index < swap.n_features:
        raise _refusal(write(node), f"a feature from 0 to {swap.n_features - 1}", "Choose one.")


def _weight(run: Run, node: Outcome) -> float:
    if isinstance(node, Token):
        return float(run.logits[0, node.pos].double().softmax(-1)[node.token])
    return 1.0


def _vocabulary(run: Run, nodes: tuple[Outcome, ...]) -> dict[int, str]:
    tokenizer: Any = run.spliced.host.tokenizer
    ids: dict[int, None] = {}
    for node in nodes:
        if isinstance(node, Token | Difference):
            ids |= dict.fromkeys([node.token] if isinstance(node, Token) else [node.good, node.bad])
    return {i: str(i) if tokenizer is None else tokenizer.decode([i]) for i in ids}


def _refusal(got: str, expected: str, do: str) -> ConfigError:
    return ConfigError("attribution_graph, targets", got=got, expected=expected, do=do)
