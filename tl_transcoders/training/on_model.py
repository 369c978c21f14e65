"""A fit driven by the activations of a model, and what must hold before and after."""

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import AbstractHost
from tl_transcoders.splice import check_original
from tl_transcoders.training.checkpoint import Progress, check_writable, has_checkpoint
from tl_transcoders.training.config import TrainConfig
from tl_transcoders.training.fit import AbstractFit
from tl_transcoders.training.loop import OnStep, Run
from tl_transcoders.training.stream import Tokens, batches, check_given, count_tokens
from tl_transcoders.transcoders.layers import layer_numbers


def run_on_model(
    host: AbstractHost,
    layers: tuple[int, ...],
    config: TrainConfig,
    tokens: Tokens,
    fit: AbstractFit,
    *,
    resume: str | Path | None,
    on_step: OnStep | None,
) -> None:
    """Drive a fit with the activations of a model from the first or the next step to the last."""
    _check_gradients_are_possible()
    run = Run(fit, config, layers, checked_length(tokens, config))
    if config.checkpoint is not None:
        _check_checkpoints(Path(config.checkpoint), resume)
    if resume is not None:
        run.resume(resume)
    with host.in_eval_mode():
        run.go(lambda start: batches(host, layers, config, tokens, start=start), on_step=on_step)
    _check_enough(run.progress, run.n_tokens, config)


def checked_config(
    host: AbstractHost, layers: tuple[int, ...], config: TrainConfig, tokens: Tokens
) -> TrainConfig:
    """The config with the length of the run; raises where the model, its splices or the tokens do not fit it."""
    if not isinstance(config, TrainConfig):
        raise ConfigError(
            "config",
            got=type(config).__name__,
            expected="a TrainConfig",
            do="Write config=tlt.TrainConfig(n_features=..., ...).",
        )
    check_original(
        host.model, [(layer, site) for layer in layers for site in (config.read, config.write)]
    )
    check_given(host, tokens, config)
    return replace(config, n_tokens=checked_length(tokens, config))


def checked_layers(host: AbstractHost, layers: Iterable[int]) -> tuple[int, ...]:
    """The layers in ascending order; raises ConfigError where there are none, one twice, or one the model lacks."""
    given = layer_numbers(layers)
    if not given or len(set(given)) < len(given):
        raise ConfigError(
            "layers",
            got=f"{list(given)}",
            expected="at least one layer, none twice",
            do="Name the layers to train transcoders for.",
        )
    for layer in given:
        if not 0 <= layer < host.n_layers:
            raise ConfigError(
                "layers",
                got=f"layer {layer} for a model of {host.n_layers} layers",
                expected=f"layers from 0 to {host.n_layers - 1}",
                do="Choose layers of the model.",
            )
    return tuple(sorted(given))


def checked_length(tokens: Tokens, config: TrainConfig) -> int:
    """The number of tokens of the run; raises ConfigError where it is unknown, or more than there are."""
    if not isinstance(tokens, Tensor):
        if config.n_tokens is not None:
            return config.n_tokens
        got, expected = "None with an iterable of tokens", "a number"
    else:
        there = count_tokens(tokens, config)
        length = there if config.n_tokens is None else config.n_tokens
        if 0 < length <= there:
            return length
        got, expected = f"{length}", f"between 1 and the {there} tokens there are to learn from"
    raise ConfigError(
        "TrainConfig.n_tokens",
        got=got,
        expected=expected,
        do="Set n_tokens to the length of the run, or give more tokens.",
    )


def _check_gradients_are_possible() -> None:
    if torch.is_inference_mode_enabled():
        raise ConfigError(
            "train",
            got="a call inside torch.inference_mode()",
            expected="a mode in which gradients can be taken",
            do="Call it outside; torch.no_grad() does no harm.",
        )


def _check_checkpoints(folder: Path, resume: str | Path | None) -> None:
    resumed = resume is not None and Path(resume).resolve() == folder.resolve()
    if has_checkpoint(folder) and not resumed:
        raise ConfigError(
            "TrainConfig.checkpoint",
            got=f"{folder}, which holds a checkpoint",
            expected="a folder without one" + ("" if resume is None else f", or {resume}"),
            do="Pass resume= to continue that run, or choose another folder.",
        )
    check_writable(folder)


def _check_enough(progress: Progress, n_tokens: int, config: TrainConfig) -> None:
    if not progress.steps:
        raise ConfigError(
            "tokens",
            got="an iterable without a token to learn from",
            expected=f"{n_tokens} of them, as TrainConfig.n_tokens says",
            do="Give an iterable that has not been used up, and look at TrainConfig.exclude.",
        )
    if n_tokens - progress.tokens >= config.batch_size:
        warnings.warn(
            f"training ended with the tokens: {progress.tokens} of TrainConfig.n_tokens={n_tokens}, "
            "so that the learning rate did not fall to its end. Set n_tokens to what there is, or give more.",
            stacklevel=4,
        )
