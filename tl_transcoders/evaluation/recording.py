"""The features that fire on a data set, batch by batch, as they do in the original model."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from tl_transcoders.errors import ConfigError, ShapeError
from tl_transcoders.hosts import check_tokens
from tl_transcoders.splice import Spliced

Fired = dict[int, Float[Tensor, "batch pos feature"]]


def recorded(
    spliced: Spliced,
    tokens: Int[Tensor, "batch pos"],
    layers: Sequence[int] | None,
    *,
    where: str,
    mask: Bool[Tensor, "batch pos"] | None,
    batch_size: int,
    progress: bool,
) -> Iterator[tuple[int, Fired, Bool[Tensor, "batch pos"]]]:
    """The number of the first prompt of every batch, activations by layer (None: all spliced ones), and which positions count.

    Errors are kept while it runs, so that no layer reads what others' reconstructions lose.
    """
    check_spliced(spliced, where)
    layers = spliced.layers if layers is None else layers
    _check(spliced, tokens, layers, where, mask, batch_size)
    for first in tqdm(range(0, len(tokens), batch_size), disable=not progress, desc=where):
        rows = slice(first, first + batch_size)
        batch = tokens[rows].to(spliced.host.device)
        counted = torch.ones_like(batch, dtype=torch.bool)
        counted = counted if mask is None else mask[rows].to(batch.device)
        with spliced.running_rows(rows), spliced.keeping_error(), spliced.host.in_eval_mode():
            fired, included = _run(spliced, batch, layers)
        counted = counted & included
        yield first, fired, counted


def _run(
    spliced: Spliced, batch: Int[Tensor, "batch pos"], layers: Sequence[int]
) -> tuple[Fired, Bool[Tensor, "batch pos"]]:
    """Activations by layer, and the positions at which transcoders stand."""
    fired: Fired = {}
    included: list[Tensor] = []

    def keep_at(layer: int) -> Any:
        def keep(_: Any, __: Any, post: Tensor) -> None:
            fired[layer] = post.detach()
            included.append(spliced.included(torch.ones_like(batch, dtype=torch.bool)))

        return keep

    with ExitStack() as hooks:
        for layer in layers:
            point = spliced.hooked[layer].hook_post
            hooks.callback(point.register_forward_hook(keep_at(layer)).remove)
        spliced.host.run(batch, stop_at_layer=max(layers) + 1)
    return fired, included[-1]


def check_spliced(spliced: object, where: str) -> None:
    """Raise ConfigError for what is no splice, SpliceError for one that is removed."""
    if not isinstance(spliced, Spliced):
        raise ConfigError(
            where,
            got=type(spliced).__name__,
            expected="what tl_transcoders.splice returns",
            do="Call it inside `with tlt.splice(model, transcoders) as spliced:` with `spliced`.",
        )
    spliced.check_installed()


def _check(
    spliced: Spliced,
    tokens: Tensor,
    layers: Sequence[int],
    where: str,
    mask: Tensor | None,
    batch_size: int,
) -> None:
    check_tokens(spliced.host, tokens, where)
    missing = sorted(set(layers) - set(spliced.layers))
    if missing:
        raise ConfigError(
            where,
            got=f"layers {missing}",
            expected=f"some of {list(spliced.layers)}",
            do="Choose spliced layers.",
        )
    if type(batch_size) is not int or batch_size < 1:
        raise ConfigError(
            f"{where}, batch_size",
            got=repr(batch_size),
            expected="an integer above 0",
            do="Give the number of prompts per forward pass.",
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != tokens.shape):
        raise ShapeError(
            f"{where}, mask",
            got=f"{mask.dtype} of shape {tuple(mask.shape)}",
            expected=f"torch.bool of shape {tuple(tokens.shape)}",
            do="Give True for every token that counts.",
        )
