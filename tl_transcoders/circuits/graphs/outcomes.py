"""What a graph explains: chosen by the caller, or the most probable next tokens."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs.nodes import Difference, Outcome, Token, parse, write
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
        whole = type(self.n) is int and type(self.pos) is int
        if not whole or self.n < 1 or not 0 < self.mass <= 1:
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
        asked = Asked(run, "attribution_graph, targets")
        if isinstance(targets, str) or not isinstance(targets, TopTokens | Sequence):
            raise asked.refusal(repr(targets), "a list of targets", "Put it into a list.")
        if isinstance(targets, TopTokens):
            nodes = asked.top(targets)
        else:
            nodes = tuple(dict.fromkeys(asked.node(target) for target in targets))
        if not nodes:
            raise asked.refusal("none", "one target or more", "Leave it out for the top tokens.")
        weight = torch.tensor([_weight(run, node) for node in nodes]).double()
        return cls(nodes, weight, _vocabulary(run, nodes))


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """Targets of a run as a caller names them; `what` asked, in errors."""

    run: Run
    what: str

    def top(self, top: TopTokens) -> tuple[Token, ...]:
        """The most probable next tokens."""
        pos = self._inside(top.pos)
        p, token = (
            self.run.logits[0, pos].double().softmax(-1).topk(min(top.n, self.run.logits.shape[-1]))
        )
        n = int((p.cumsum(0) < top.mass).sum()) + 1
        return tuple(Token(int(i), pos) for i in token[:n])

    def node(self, target: Any) -> Outcome:
        """What a target stands for."""
        match target:
            case bool():
                pass
            case int() | str():
                return self._named(target)
            case (int() | str() as good, int() | str() as bad):
                return Difference(self._token(good), self._token(bad), self._inside(-1))
            case Token(token, pos):
                return Token(self._token(token), self._inside(pos))
            case Difference(good, bad, pos):
                return Difference(self._token(good), self._token(bad), self._inside(pos))
            case Feature(int() as layer, int() as index, int() | None as pos):
                self._check_feature(target)
                return Feature(layer, index, self._inside(-1 if pos is None else pos))
            case _:
                pass
        raise self.refusal(
            repr(target),
            "a token (id or text), a pair of tokens, Token, Difference or Feature",
            'Write targets=["w", ("w", "v"), tlt.Feature(3, 7, -1)].',
        )

    def _named(self, target: Word) -> Outcome:
        """A token, or the text of a node that is none: `f3.7@5`."""
        if isinstance(target, str) and (len(ids := self._ids(target)) != 1 or self._unknown(ids)):
            with suppress(ConfigError):
                node = parse(target)
                if isinstance(node, Outcome):
                    return self.node(node)
        return Token(self._token(target), self._inside(-1))

    def _ids(self, word: str) -> list[int]:
        return self.run.spliced.model.to_tokens(word, prepend_bos=False)[0].tolist()

    def _unknown(self, ids: list[int]) -> bool:
        return ids == [getattr(self.run.spliced.host.tokenizer, "unk_token_id", None)]

    def _token(self, word: Word) -> int:
        vocab = self.run.logits.shape[-1]
        if isinstance(word, str):
            found = self._ids(word)
            if self._unknown(found):
                raise self.refusal(
                    f"{word!r}, which the tokenizer does not know",
                    "a token of its vocabulary",
                    "Mind the space before it; or give its id.",
                )
            if len(found) != 1:
                raise self.refusal(
                    f"{word!r}, which is {len(found)} tokens",
                    "one token",
                    "Mind the space before it.",
                )
            return found[0]
        if type(word) is not int or not 0 <= word < vocab:
            raise self.refusal(
                f"token {word!r}", f"a token of the vocabulary, 0 to {vocab - 1}", "Correct it."
            )
        return word

    def _inside(self, pos: int) -> int:
        length = self.run.shape[1]
        if type(pos) is not int or not -length <= pos < length:
            raise self.refusal(
                f"position {pos!r}", f"one of {length}", "Choose a position of the prompt."
            )
        return pos % length

    def _check_feature(self, node: Feature) -> None:
        whole = type(node.layer) is int and type(node.index) is int
        swap = self.run.model.swaps.get(node.layer) if whole else None
        if swap is None:
            spliced = sorted(self.run.model.swaps)
            raise self.refusal(
                write(node), f"a feature of layers {spliced}", "Choose a spliced layer."
            )
        if not 0 <= node.index < swap.n_features:
            raise self.refusal(
                write(node), f"a feature from 0 to {swap.n_features - 1}", "Choose one."
            )

    def refusal(self, got: str, expected: str, do: str) -> ConfigError:
        """The error for a target that cannot be."""
        return ConfigError(self.what, got=got, expected=expected, do=do)


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
