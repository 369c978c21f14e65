"""Metrics: one number per prompt, of its logits. They are never averaged here, and gradients pass through them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.errors import ConfigError, ShapeError

LOW_PRECISION: Final = (torch.float16, torch.bfloat16)
Groups = Sequence[tuple[Sequence[int], Sequence[int]]]
"""For every prompt its good tokens and its bad ones."""


class AbstractMetric(ABC):
    """A number per prompt, read off the logits of a batch."""

    __slots__ = ()

    pos: int | None
    """The one position it reads (negative: from the end), or None where it needs them all."""

    @property
    @abstractmethod
    def batch(self) -> int | None:
        """How many prompts it was made for; None where any number will do."""

    @abstractmethod
    def needs(self, vocab: int) -> Int[Tensor, " token"] | None:
        """The tokens, sorted and unique, whose logits it reads; None where it needs the whole vocabulary.

        **Raises:** ConfigError for a token outside the vocabulary.
        """

    @abstractmethod
    def of_rows(
        self, logits: Float[Tensor, "row *pos token"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The value of every row, of which `rows` says which prompt it is a run of.

        **Arguments:** `logits`, at the position it reads (all of them where `pos` is None), of the tokens that
        `needs` names, in that order.
        """

    def __call__(self, logits: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, " batch"]:
        """The value of every prompt."""
        read = logits if self.pos is None else logits[:, _inside(self.pos, logits.shape[1])]
        tokens = self.needs(logits.shape[2])
        if tokens is not None:
            read = read[..., tokens.to(read.device)]
        value = self.of_rows(read, torch.arange(len(logits), device=logits.device))
        return _checked(value, len(logits))


@final
@dataclass(frozen=True, slots=True, eq=False)
class LogitDiff(AbstractMetric):
    """logit(answer) − logit(wrong)."""

    answers: Int[Tensor, " batch"]
    wrongs: Int[Tensor, " batch"]
    pos: int | None = -1

    def __post_init__(self) -> None:
        _check_tokens("LogitDiff", self.answers)
        _check_tokens("LogitDiff", self.wrongs)
        _check_batch("LogitDiff, wrongs", len(self.wrongs), len(self.answers))
        _check_pos("LogitDiff", self.pos)

    @property
    def batch(self) -> int:
        """How many prompts it was made for."""
        return len(self.answers)

    def needs(self, vocab: int) -> Int[Tensor, " token"]:
        """Answers and wrong answers."""
        return _within(torch.cat([self.answers, self.wrongs]).unique(), vocab)

    def of_rows(
        self, logits: Float[Tensor, "row *pos token"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The value of every row."""
        tokens = torch.cat([self.answers, self.wrongs]).unique()
        right = _at(logits, _columns(tokens, self.answers), rows)
        return right - _at(logits, _columns(tokens, self.wrongs), rows)


@final
@dataclass(frozen=True, slots=True, eq=False)
class TokenLogit(AbstractMetric):
    """logit(answer)."""

    answers: Int[Tensor, " batch"]
    pos: int | None = -1

    def __post_init__(self) -> None:
        _check_tokens("TokenLogit", self.answers)
        _check_pos("TokenLogit", self.pos)

    @property
    def batch(self) -> int:
        """How many prompts it was made for."""
        return len(self.answers)

    def needs(self, vocab: int) -> Int[Tensor, " token"]:
        """The answers."""
        return _within(self.answers.unique(), vocab)

    def of_rows(
        self, logits: Float[Tensor, "row *pos token"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The value of every row."""
        return _at(logits, _columns(self.answers.unique(), self.answers), rows)


@final
@dataclass(frozen=True, slots=True, eq=False)
class LogProb(AbstractMetric):
    """log p(answer) in nats."""

    answers: Int[Tensor, " batch"]
    pos: int | None = -1

    def __post_init__(self) -> None:
        _check_tokens("LogProb", self.answers)
        _check_pos("LogProb", self.pos)

    @property
    def batch(self) -> int:
        """How many prompts it was made for."""
        return len(self.answers)

    def needs(self, vocab: int) -> None:
        """The whole vocabulary."""
        _within(self.answers, vocab)

    def of_rows(
        self, logits: Float[Tensor, "row *pos token"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The value of every row."""
        return _at(_wide(logits).log_softmax(-1), self.answers, rows)


@final
@dataclass(frozen=True, slots=True, eq=False)
class ProbDiff(AbstractMetric):
    """Σ p(good) − Σ p(bad), over the good and the bad tokens of each prompt.

    ```python
    ProbDiff([([7, 8, 9], [5, 6]), ([8, 9], [5, 6, 7])])
    ```

    Source: Hanna et al. 2023, How does GPT-2 compute greater-than?, section 3.
    """

    groups: Groups
    pos: int | None = -1
    _tokens: Int[Tensor, " token"] = field(init=False, repr=False)
    _signs: Float[Tensor, "batch token"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_pos("ProbDiff", self.pos)
        tokens = sorted({token for good, bad in self.groups for token in (*good, *bad)})
        column = {token: i for i, token in enumerate(tokens)}
        signs = torch.zeros(len(self.groups), len(tokens))
        for row, (good, bad) in zip(signs, self.groups, strict=True):
            _check_apart(good, bad)
            row[[column[token] for token in good]] = 1.0
            row[[column[token] for token in bad]] = -1.0
        _check_tokens("ProbDiff", torch.tensor(tokens))
        object.__setattr__(self, "_tokens", torch.tensor(tokens))
        object.__setattr__(self, "_signs", signs)

    @property
    def batch(self) -> int:
        """How many prompts it was made for."""
        return len(self.groups)

    def needs(self, vocab: int) -> None:
        """The whole vocabulary."""
        _within(self._tokens, vocab)

    def of_rows(
        self, logits: Float[Tensor, "row *pos token"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The value of every row."""
        p = _wide(logits).softmax(-1)[:, self._tokens.to(logits.device)]
        signs = self._signs.to(p)
        return (p * signs[rows.to(p.device)]).sum(-1)


@final
@dataclass(frozen=True, slots=True, eq=False)
class KLDivergence(AbstractMetric):
    """KL(p ‖ q) in nats of the next token: p as in the logits of reference, q as in those measured.

    ```python
    KLDivergence(model(base)[:, -1])
    ```
    """

    reference: Float[Tensor, "batch vocab"]
    pos: int | None = -1

    def __post_init__(self) -> None:
        _check_pos("KLDivergence", self.pos)

    @property
    def batch(self) -> int:
        """How many prompts it was made for."""
        return len(self.reference)

    def needs(self, vocab: int) -> None:
        """The whole vocabulary."""
        if self.reference.shape[1] != vocab:
            raise ShapeError(
                "KLDivergence",
                got=f"reference logits of {self.reference.shape[1]} tokens",
                expected=f"those of the vocabulary, {vocab}",
                do="Take them from this model, at the position that is measured.",
            )

    def of_rows(
        self, logits: Float[Tensor, "row *pos token"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The value of every row."""
        log_q = _wide(logits).log_softmax(-1)
        log_p = _wide(self.reference).to(log_q).log_softmax(-1)[rows.to(log_q.device)]
        return (log_p.exp() * (log_p - log_q)).sum(-1)


@final
@dataclass(frozen=True, slots=True, eq=False)
class CustomMetric(AbstractMetric):
    """`fn(logits [batch pos vocab]) -> [batch]`, a value for each of `prompts` prompts.

    A value must depend on the logits of its own prompt alone. `prompts` may be left out where the metric is only
    ever called with the whole batch.
    """

    fn: Callable[[Tensor], Tensor]
    prompts: int | None = None
    pos: int | None = field(init=False, default=None)

    @property
    def batch(self) -> int | None:
        """How many prompts it was made for; None where any number will do."""
        return self.prompts

    def needs(self, vocab: int) -> None:
        """The whole vocabulary."""

    def of_rows(
        self, logits: Float[Tensor, "row *pos token"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The value of every row.

        `fn` sees whole batches only: the k-th row of every prompt forms the k-th batch, whose missing prompts
        have logits 0.
        """
        batch, rows = len(rows) if self.prompts is None else self.prompts, rows.to(logits.device)
        if torch.equal(rows, torch.arange(batch, device=rows.device)):
            return _checked(self.fn(logits), batch)
        _check_rows(rows, self.prompts)
        turn = torch.nn.functional.one_hot(rows, batch).cumsum(0).gather(1, rows[:, None])[:, 0]
        values, order = [], []
        for k in range(1, int(turn.max()) + 1):
            (mine,) = (turn == k).nonzero(as_tuple=True)
            whole = logits.new_zeros(batch, *logits.shape[1:])
            value = _checked(self.fn(whole.index_copy(0, rows[mine], logits[mine])), batch)
            values.append(value[rows[mine]])
            order.append(mine)
        return torch.cat(values)[torch.cat(order).argsort()]


Metric = AbstractMetric | Callable[[Tensor], Tensor]


def as_metric(metric: Metric, batch: int) -> AbstractMetric:
    """A metric of `batch` prompts: the one given, or the function made into one.

    **Raises:** ShapeError for a metric of another number of prompts; ConfigError for what is no metric.
    """
    if isinstance(metric, CustomMetric) and metric.prompts is None:
        return replace(metric, prompts=batch)
    if isinstance(metric, AbstractMetric):
        if metric.batch is not None:
            _check_batch(type(metric).__name__, metric.batch, batch)
        return metric
    if not callable(metric):
        raise ConfigError(
            "metric",
            got=type(metric).__name__,
            expected="LogitDiff, LogProb, ProbDiff, TokenLogit, KLDivergence or a function of logits [batch pos vocab]",
            do="Pass one of these.",
        )
    return CustomMetric(metric, batch)


def _checked(value: object, batch: int) -> Tensor:
    if isinstance(value, Tensor) and value.shape == (batch,):
        return value
    got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ShapeError(
        "metric",
        got=got,
        expected=f"a tensor [batch={batch}]: one value per prompt",
        do="Return a value for every prompt of logits [batch pos vocab]; do not average.",
    )


def _columns(tokens: Int[Tensor, " token"], wanted: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Where the wanted tokens stand among the sorted ones."""
    return torch.searchsorted(tokens, wanted.contiguous())


def _at(
    logits: Float[Tensor, "row token"], columns: Int[Tensor, " batch"], rows: Int[Tensor, " row"]
) -> Float[Tensor, " row"]:
    """logits[i, columns[rows[i]]]."""
    chosen = columns.to(logits.device)[rows.to(logits.device)]
    return logits.gather(-1, chosen[:, None])[:, 0]


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in LOW_PRECISION else logits


def _within(tokens: Int[Tensor, " token"], vocab: int) -> Int[Tensor, " token"]:
    largest = int(tokens.max())
    if largest >= vocab:
        raise ConfigError(
            "metric",
            got=f"token {largest}",
            expected=f"a token of the vocabulary, 0 to {vocab - 1}",
            do="Take the tokens from this model's tokenizer.",
        )
    return tokens


def _inside(pos: int, length: int) -> int:
    if not -length <= pos < length:
        raise ShapeError(
            "metric",
            got=f"logits of {length} positions",
            expected=f"position {pos} among them",
            do="Choose a position of the prompt.",
        )
    return pos


def _check_tokens(where: str, tokens: object) -> None:
    if isinstance(tokens, Tensor):
        integer = not (tokens.is_floating_point() or tokens.is_complex()) and tokens.ndim == 1
        if integer and len(tokens) and int(tokens.min()) >= 0:
            return
    got = (
        f"{tokens.dtype} {tuple(tokens.shape)}"
        if isinstance(tokens, Tensor)
        else type(tokens).__name__
    )
    raise ShapeError(
        where,
        got=got,
        expected="an integer tensor [batch] of token ids, none of them negative",
        do="Give one token id for every prompt.",
    )


def _check_pos(where: str, pos: object) -> None:
    if isinstance(pos, bool) or not isinstance(pos, int):
        raise ConfigError(
            where,
            got=f"pos={pos!r}",
            expected="one position",
            do="Use a CustomMetric to read several positions.",
        )


def _check_batch(where: str, got: int, expected: int) -> None:
    if got != expected:
        raise ShapeError(
            where,
            got=f"{got} prompts",
            expected=f"{expected} prompts",
            do="Give one answer for every prompt.",
        )


def _check_rows(rows: Int[Tensor, " row"], prompts: int | None) -> None:
    if prompts is None or int(rows.max()) >= prompts:
        raise ConfigError(
            "CustomMetric",
            got=f"rows of prompts up to {int(rows.max())} and prompts={prompts}",
            expected="the number of prompts the function returns values for",
            do="Make it with as_metric(fn, batch) or CustomMetric(fn, prompts=batch).",
        )


def _check_apart(good: Sequence[int], bad: Sequence[int]) -> None:
    both = sorted(set(good) & set(bad))
    if both:
        raise ConfigError(
            "ProbDiff",
            got=f"tokens {both} among the good and the bad",
            expected="each token in one group",
            do="Leave a token out of one of the groups.",
        )
