"""From tokens to shuffled batches of what the model computes at the sites."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders._types import Site
from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import AbstractHost, check_ids, check_length
from tl_transcoders.training.config import TrainConfig

Tokens = Tensor | Iterable[Tensor]
Place = tuple[int, Site]


@final
@dataclass(frozen=True, slots=True)
class Position:
    """Where in the token stream a batch came from: the first row of its block, and the batches of the block before it."""

    row: int = 0
    batch: int = 0


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs and outputs of every layer for the same tokens, and the position that comes next."""

    x: dict[int, Float[Tensor, "row d_in"]]
    y: dict[int, Float[Tensor, "row d_out"]]
    n_tokens: int
    following: Position


def check_given(host: AbstractHost, tokens: Tokens, config: TrainConfig) -> None:
    """Raise ConfigError unless these are tokens, or an iterable whose own are checked when it comes to them."""
    if isinstance(tokens, list | tuple):
        for given in tokens:
            _check(host, given, config)
    elif isinstance(tokens, str | Tensor) or not isinstance(tokens, Iterable):
        _check(host, tokens, config)


def count_tokens(tokens: Tensor, config: TrainConfig) -> int:
    """How many tokens there are to learn from."""
    return sum(int(_kept(rows, config).sum()) for rows in _cut(tokens, config))


def batches(
    host: AbstractHost,
    layers: tuple[int, ...],
    config: TrainConfig,
    tokens: Tokens,
    *,
    start: Position,
) -> Iterator[Batch]:
    """Batches of activations from `start` to the end of `tokens`.

    The model runs on one block of rows at a time, of `shuffle` batches. Everything within a block depends on
    the seed and the number of its first row, so a run can begin again in the middle of one. What is left at
    the end is not learnt from if it is less than half a batch, unless it is all there is.
    """
    row = 0
    pieces: list[_Piece] = []
    for rows in _cut(_checked(host, tokens, config), config):
        if row >= start.row:
            pieces.append(_Piece(row, rows, _kept(rows, config)))
        row += len(rows)
        if sum(piece.n_kept for piece in pieces) >= config.shuffle * config.batch_size:
            yield from _block(host, layers, config, pieces, row, start)
            pieces = []
    rest = sum(piece.n_kept for piece in pieces)
    if 2 * rest >= config.batch_size or (rest and pieces[0].row == 0):
        yield from _block(host, layers, config, pieces, row, start)


@final
@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows the model runs on together."""

    row: int
    tokens: Int[Tensor, "batch pos"]
    kept: Bool[Tensor, "batch pos"]

    @property
    def n_kept(self) -> int:
        return int(self.kept.sum())


def _cut(tokens: Tokens, config: TrainConfig) -> Iterator[Int[Tensor, "batch pos"]]:
    """The same pieces for every run: rows of `context` tokens, about a batch of tokens together."""
    for given in [tokens] if isinstance(tokens, Tensor) else tokens:
        _check_context(given, config)
        context = given.shape[1] if config.context is None else config.context
        rows = given.unfold(1, context, context).reshape(-1, context)
        yield from rows.split(max(1, config.batch_size // context))


def _checked(host: AbstractHost, tokens: Tokens, config: TrainConfig) -> Iterator[Tensor]:
    for given in [tokens] if isinstance(tokens, Tensor) else tokens:
        _check(host, given, config)
        yield given


def _check(host: AbstractHost, tokens: object, config: TrainConfig) -> None:
    check_ids(host, tokens, "tokens")
    assert isinstance(tokens, Tensor)
    check_length(host, config.context or tokens.shape[1], "tokens")


def _check_context(tokens: Tensor, config: TrainConfig) -> None:
    if config.context is not None and config.context > tokens.shape[1]:
        raise ConfigError(
            "TrainConfig.context",
            got=f"{config.context} for rows of {tokens.shape[1]} tokens",
            expected="at most the length of a row",
            do="Lower context, or give longer rows.",
        )


def _kept(rows: Tensor, config: TrainConfig) -> Bool[Tensor, "batch pos"]:
    return ~torch.isin(rows, torch.tensor(config.exclude, dtype=rows.dtype, device=rows.device))


def _block(
    host: AbstractHost,
    layers: tuple[int, ...],
    config: TrainConfig,
    pieces: list[_Piece],
    next_row: int,
    start: Position,
) -> Iterator[Batch]:
    values = _activations(host, layers, config, pieces)
    n_tokens = sum(piece.n_kept for piece in pieces)
    first = pieces[0].row
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + first)
    order = torch.randperm(n_tokens, generator=generator)
    parts = order.tensor_split(max(1, round(n_tokens / config.batch_size)))
    done = start.batch if first == start.row else 0
    for number, part in enumerate(parts[done:], start=done + 1):
        here = part.to(host.device)
        taken = {place: value[here].float() for place, value in values.items()}
        yield Batch(
            x={layer: taken[layer, config.read] for layer in layers},
            y={layer: taken[layer, config.write] for layer in layers},
            n_tokens=len(part),
            following=Position(first, number) if number < len(parts) else Position(next_row, 0),
        )


def _activations(
    host: AbstractHost, layers: tuple[int, ...], config: TrainConfig, pieces: list[_Piece]
) -> dict[Place, Float[Tensor, "row width"]]:
    places: set[Place] = {(layer, site) for layer in layers for site in (config.read, config.write)}
    found: dict[Place, list[Tensor]] = {place: [] for place in places}
    with host.recording(places) as store:
        for piece in pieces:
            host.run(piece.tokens, stop_at_layer=max(layers) + 1)
            kept = piece.kept.to(host.device)
            for place, values in found.items():
                values.append(store[place][kept])
    return {place: torch.cat(values) for place, values in found.items()}
