"""`train`: the transcoders of any layers of a model, at once."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import final

from torch import Tensor, nn

from tl_transcoders.hosts import AbstractHost, resolve_host
from tl_transcoders.training.config import TrainConfig
from tl_transcoders.training.finish import finish
from tl_transcoders.training.fit import AbstractFit
from tl_transcoders.training.loop import OnStep
from tl_transcoders.training.on_model import checked_config, checked_layers, run_on_model
from tl_transcoders.training.report import StepReport
from tl_transcoders.training.start import initial_transcoder
from tl_transcoders.training.stream import Batch, Tokens
from tl_transcoders.training.trainer import Trainer
from tl_transcoders.transcoders import Origin, TranscoderSet


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
