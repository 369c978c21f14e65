"""`train`: the transcoders of any layers of a model, at once."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import AbstractHost, resolve_host
from tl_transcoders.splice import check_original
from tl_transcoders.training.checkpoint import Progress, check_writable, has_checkpoint
from tl_transcoders.training.config import TrainConfig
from tl_transcoders.training.finish import finish
from tl_transcoders.training.fit import AbstractFit
from tl_transcoders.training.loop import OnStep, Run
from tl_transcoders.training.report import StepReport
from tl_transcoders.training.start import initial_transcoder
from tl_transcoders.training.stream import Batch, Tokens, batches, check_given, count_tokens
from tl_transcoders.training.trainer import Trainer
from tl_transcoders.transcoders import Origin, TranscoderSet
from tl_transcoders.transcoders.layers import layer_numbers


def train(
    model: nn.Module,
    *,
    layers: Iterable[int],
    config: TrainConfig,
    tokens: Tokens,
    resume: str | Path | None = None,
    on_step: OnStep | None = None,
) -> TranscoderSet:
    """Train a transcoder for each of `layers`, all from one pass of the model over `tokens`.

    The same seed, tokens and number of threads give the same bytes, whichever layers are trained together.
    The model runs in eval mode, without dropout, whatever mode it is in.

    **Arguments:**

    - `tokens`: `[batch pos]`, or an iterable of such tensors; training ends at `config.n_tokens` or, with
      a warning, with them.
    - `resume`: the folder of a run with checkpoints that was stopped. `tokens` must then begin as they
      began for that run.
    - `on_step`: called after every step with the number of tokens so far and a `StepReport`, the mean over layers.

    Ctrl-C during a run with `config.checkpoint` finishes the step, writes a checkpoint and raises
    KeyboardInterrupt.

    **Raises:** ConfigError where model, layers, tokens and config do not fit each other, or the loss is not
    finite; SpliceError inside a splice that stands where the transcoders would read or write; HubError where
    a checkpoint cannot be written or read.

    ```python
    config = TrainConfig(n_features=37, activation=TopK(5), batch_size=64)
    transcoders = train(model, layers=[0, 2], config=config, tokens=torch.randint(50, (40, 16)))
    ```
    """
    host = resolve_host(model)
    chosen = checked_layers(host, layers)
    config = checked_config(host, chosen, config, tokens)
    fit = _LayerFit(host, chosen, config)
    run_on_model(host, chosen, config, tokens, fit, resume=resume, on_step=on_step)
    return fit.finished()


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
    check_given(host, tokens)
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


@final
class _LayerFit(AbstractFit):
    """A trainer for every layer."""

    def __init__(self, host: AbstractHost, layers: tuple[int, ...], config: TrainConfig) -> None:
        self._config, self._origin = config, Origin(model_name=host.model_name)
        self._trainers = {layer: _trainer(host, layer, config) for layer in layers}

    def step(self, batch: Batch, *, lr_scale: float) -> StepReport:
        return StepReport.mean(
            [
                trainer.step(batch.x[layer], batch.y[layer], lr_scale=lr_scale)
                for layer, trainer in self._trainers.items()
            ]
        )

    def transcoders(self) -> TranscoderSet:
        found = {layer: trainer.transcoder for layer, trainer in self._trainers.items()}
        return TranscoderSet(found, origin=self._origin)

    def finished(self) -> TranscoderSet:
        """The transcoders, frozen."""
        for trainer in self._trainers.values():
            finish(trainer.transcoder, unit_norm_decoder=self._config.unit_norm_decoder)
        return self.transcoders()

    def state(self) -> dict[str, Tensor]:
        return {
            f"{layer}.{name}": tensor
            for layer, trainer in self._trainers.items()
            for name, tensor in trainer.state().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for layer, trainer in self._trainers.items():
            prefix = f"{layer}."
            own = {
                name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)
            }
            trainer.load_state(own)


def _trainer(host: AbstractHost, layer: int, config: TrainConfig) -> Trainer:
    cfg = config.coder_config(
        layer=layer,
        d_in=host.site_width(config.read, layer),
        d_out=host.site_width(config.write, layer),
        folded=host.folded,
    )
    transcoder = initial_transcoder(cfg, seed=config.seed * 1_000_003 + layer)
    return Trainer(transcoder.to(host.device), config)
