"""Measuring a splice: reconstruction, sparsity and behaviour."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm.auto import tqdm

from tl_transcoders.errors import ConfigError, ShapeError
from tl_transcoders.evaluation.behaviour import Mean, Predictions
from tl_transcoders.evaluation.reconstruction import Tally
from tl_transcoders.evaluation.report import Effect, LayerReport, Report
from tl_transcoders.hosts import check_tokens
from tl_transcoders.splice import Mode, Spliced
from tl_transcoders.transcoders import CrossLayerTranscoder

Setting = tuple[Mode, tuple[int, ...]]


def evaluate(
    spliced: Spliced,
    tokens: Int[Tensor, "batch pos"],
    *,
    mask: Bool[Tensor, "batch pos"] | None = None,
    batch_size: int = 8,
    per_layer: bool = False,
    progress: bool = False,
) -> Report:
    """How well the transcoders rebuild the MLPs, and what the model's predictions lose.

        FVU = Σ‖mlp(x) − transcoder(x)‖² / Σ‖mlp(x) − mean mlp(x)‖²     x: inputs in the original model

    Loss is next-token cross-entropy and KL is KL(original ‖ other), both in nats and both means over
    tokens; excluded positions (`splice(..., exclude=)`) count towards these and not towards FVU, L0 and dead
    features. `spliced` is measured under the error policy of the splice, and `original` is the model
    without this splice: where two nest, the other stays. The model runs in eval mode, without dropout.

    **Arguments:**

    - `tokens`: prompts of one length, padded on the right where need be.
    - `mask`: which tokens count; by default all but the tokenizer's padding. Where that is also its BOS or
      EOS (GPT-2), padding cannot be told from text: give a mask.
    - `batch_size`: prompts per forward pass.
    - `per_layer`: also measure every layer spliced and ablated alone (two forward passes each; not for
      cross-layer transcoders, whose layers do not stand alone).

    **Raises:** ShapeError for prompts of fewer than two tokens, or a mask of another shape; ConfigError for
    tokens the model cannot read or none that count; SpliceError where the splice is already removed.

    ```python
    with tlt.splice(model, transcoders) as spliced:
        print(tlt.evaluate(spliced, tokens).spliced.loss)
    ```
    """
    _check_spliced(spliced)
    check_tokens(spliced.host, tokens, "evaluate")
    if tokens.shape[1] < 2:
        raise ShapeError(
            "evaluate",
            got=f"prompts of {tokens.shape[1]} tokens",
            expected="at least two, of which the first predicts the second",
            do="Give longer prompts.",
        )
    _check_batch_size(batch_size)
    spliced.check_mask(tokens.shape)
    tokens = tokens.to(spliced.host.device)
    kept = _counted(spliced, tokens, mask)
    alone = per_layer and not isinstance(spliced.transcoders, CrossLayerTranscoder)
    settings = list(_settings(spliced.layers, alone))
    losses = {setting: (Mean(), Mean()) for setting in settings}
    tallies = {layer: Tally() for layer in spliced.layers}
    starts = range(0, len(tokens), batch_size)
    with spliced.host.in_eval_mode():
        for start in tqdm(starts, disable=not progress, desc="evaluate"):
            rows = slice(start, start + batch_size)
            with spliced.running_rows(rows):
                _measure(spliced, tokens[rows], kept[rows], losses, tallies)
    effects = {s: Effect(loss=a.value, kl=b.value) for s, (a, b) in losses.items()}
    return _report(spliced.layers, effects, tallies, n_tokens=int(kept.sum()))


def _check_spliced(spliced: object) -> None:
    if not isinstance(spliced, Spliced):
        raise ConfigError(
            "evaluate",
            got=type(spliced).__name__,
            expected="what tl_transcoders.splice returns",
            do="with tlt.splice(model, transcoders) as spliced: tlt.evaluate(spliced, tokens)",
        )
    spliced.check_installed()


def _settings(layers: tuple[int, ...], alone: bool) -> Iterator[Setting]:
    for mode in Mode:
        yield mode, layers
        if alone and mode is not Mode.ORIGINAL and len(layers) > 1:
            yield from ((mode, (layer,)) for layer in layers)


def _measure(
    spliced: Spliced,
    batch: Int[Tensor, "batch pos"],
    kept: Bool[Tensor, "batch pos"],
    losses: dict[Setting, tuple[Mean, Mean]],
    tallies: dict[int, Tally],
) -> None:
    with spliced.keeping_error(), _tallying(spliced, tallies, kept):
        spliced.host.run(batch, stop_at_layer=max(spliced.layers) + 1)
    with spliced.running(Mode.ORIGINAL):
        original = Predictions(spliced.host.logits(batch), batch)
    for (mode, layers), (mean_loss, mean_kl) in losses.items():
        if mode is Mode.ORIGINAL:
            loss, kl = original.loss(), torch.zeros_like(batch, dtype=torch.float32)
        else:
            with spliced.running(Mode.ORIGINAL), spliced.running(mode, layers):
                loss, kl = original.compare(spliced.host.logits(batch))
        mean_loss.add(loss, kept[:, 1:] & kept[:, :-1])
        mean_kl.add(kl, kept)


@contextmanager
def _tallying(
    spliced: Spliced, tallies: dict[int, Tally], kept: Bool[Tensor, "batch pos"]
) -> Iterator[None]:
    errors: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for layer, hooked in spliced.hooked.items():

            def on_post(_: Any, __: Any, post: Tensor, layer: int = layer) -> None:
                tallies[layer].add_features(post, kept & spliced.included(kept))

            def on_error(_: Any, __: Any, error: Tensor, layer: int = layer) -> None:
                errors[layer] = error

            def on_out(_: Any, __: Any, output: Tensor, layer: int = layer) -> None:
                tallies[layer].add_output(errors.pop(layer), output, kept & spliced.included(kept))

            for point, hook in (
                (hooked.hook_post, on_post),
                (hooked.hook_error, on_error),
                (hooked.hook_out, on_out),
            ):
                hooks.callback(point.register_forward_hook(hook).remove)
        yield


def _check_batch_size(batch_size: object) -> None:
    if type(batch_size) is not int or batch_size < 1:
        raise ConfigError(
            "evaluate, batch_size",
            got=repr(batch_size),
            expected="an integer above 0",
            do="Give the number of prompts per forward pass.",
        )


def _counted(
    spliced: Spliced, tokens: Int[Tensor, "batch pos"], mask: object
) -> Bool[Tensor, "batch pos"]:
    if mask is None:
        kept = _not_padding(spliced, tokens)
    elif isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == tokens.shape:
        kept = mask.to(tokens.device)
    else:
        found = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else mask
        raise ShapeError(
            "evaluate, mask",
            got=str(found),
            expected=f"torch.bool of shape {tuple(tokens.shape)}",
            do="Give True for every token that counts.",
        )
    if not (kept[:, 1:] & kept[:, :-1]).any():
        raise ConfigError(
            "evaluate",
            got="no token that counts and predicts another that does",
            expected="some",
            do="Look at the mask, or at what the tokenizer takes for padding.",
        )
    return kept


def _not_padding(spliced: Spliced, batch: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    tokenizer = spliced.host.tokenizer
    pad = getattr(tokenizer, "pad_token_id", None)
    shared = pad in (
        getattr(tokenizer, "bos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    )
    return torch.ones_like(batch, dtype=torch.bool) if pad is None or shared else batch != pad


def _report(
    layers: tuple[int, ...],
    effects: dict[Setting, Effect],
    tallies: dict[int, Tally],
    *,
    n_tokens: int,
) -> Report:
    rows = {
        layer: LayerReport(
            layer=layer,
            fvu=tally.fvu,
            l0=tally.l0,
            dead=tally.dead,
            spliced=effects.get((Mode.TRANSCODER, (layer,))),
            ablated=effects.get((Mode.ABLATED, (layer,))),
        )
        for layer, tally in tallies.items()
    }
    return Report(
        n_tokens=n_tokens,
        original=effects[Mode.ORIGINAL, layers],
        spliced=effects[Mode.TRANSCODER, layers],
        ablated=effects[Mode.ABLATED, layers],
        layers=rows,
    )
