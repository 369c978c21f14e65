"""`train_cross_layer`: one cross-layer transcoder for several layers."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import AbstractHost, resolve_host
from tl_transcoders.training.config import TrainConfig
from tl_transcoders.training.encode import Encoded, encode, fired
from tl_transcoders.training.finish import freeze
from tl_transcoders.training.fit import AbstractFit
from tl_transcoders.training.learner import Learner
from tl_transcoders.training.loop import OnStep
from tl_transcoders.training.losses import total_variance
from tl_transcoders.training.objective import Loss, LossInputs, objective
from tl_transcoders.training.on_model import checked_config, checked_layers, run_on_model
from tl_transcoders.training.report import StepReport
from tl_transcoders.training.start import Units, initial_cross_layer, settle, start
from tl_transcoders.training.stream import Batch, Tokens
from tl_transcoders.transcoders import CrossLayerTranscoder, Origin


def train_cross_layer(
    model: nn.Module,
    *,
    config: TrainConfig,
    layers: Iterable[int] | None = None,
    tokens: Tokens,
    resume: str | Path | None = None,
    on_step: OnStep | None = None,
) -> CrossLayerTranscoder:
    """Train one cross-layer transcoder for `layers`, by default all of the model's.

        loss = mean over layers of FVU + penalty + auxk · AuxK

    The terms are those of `train`: L1 weighs a feature by the norm of all it writes, and AuxK lets the dead
    features of a layer explain what is left of that layer's own output.

    **Arguments** and **Raises:** as `train`.

    Source: Ameisen et al. 2025, Circuit Tracing, section 2.

    ```python
    config = TrainConfig(n_features=37, activation=TopK(5), batch_size=64)
    transcoder = train_cross_layer(model, config=config, tokens=torch.randint(50, (40, 16)))
    ```
    """
    host = resolve_host(model)
    chosen = checked_layers(host, range(host.n_layers) if layers is None else layers)
    config = checked_config(host, chosen, config, tokens)
    if config.unit_norm_decoder:
        raise ConfigError(
            "TrainConfig.unit_norm_decoder",
            got="True for a cross-layer transcoder",
            expected="False, because a feature has one decoder row for every target",
            do="Leave it out.",
        )
    fit = CrossLayerFit(_initial(host, chosen, config), config)
    run_on_model(host, chosen, config, tokens, fit, resume=resume, on_step=on_step)
    return fit.finished()


def _initial(
    host: AbstractHost, layers: tuple[int, ...], config: TrainConfig
) -> CrossLayerTranscoder:
    cfg = config.cross_layer_config(
        layers=layers,
        d_in=host.site_width(config.read, layers[0]),
        d_out=host.site_width(config.write, layers[0]),
        folded=host.folded,
    )
    transcoder = initial_cross_layer(cfg, seed=config.seed * 1_000_003).to(host.device)
    transcoder.origin = Origin(model_name=host.model_name)
    return transcoder


@final
class CrossLayerFit(AbstractFit):
    """Fits a cross-layer transcoder, in place."""

    def __init__(self, transcoder: CrossLayerTranscoder, config: TrainConfig) -> None:
        self._transcoder, self._config = transcoder, config
        silent_for = torch.zeros_like(torch.stack(list(transcoder.b_enc)), dtype=torch.int64)
        self._learner = Learner(transcoder, config, silent_for=silent_for)

    @torch.enable_grad()
    def step(self, batch: Batch, *, lr_scale: float) -> StepReport:
        """One step, and the mean of the layers' reports."""
        learner, n = self._learner, len(self._transcoder.layers)
        first = not learner.begun
        if first:
            self._start(batch)
        encoded = self._encode(batch)
        found = self._losses(encoded, batch)
        total = torch.stack([loss.total for loss in found]).mean()
        learner.step(total, lr_scale=lr_scale)
        for i, e in enumerate(encoded):
            settle(self._threshold(i), e.boundary, first=first)
        learner.count(torch.stack([fired(e.features) for e in encoded]), n_tokens=batch.n_tokens)
        fvu = torch.stack([loss.fvu for loss in found]).mean()
        active = sum(float(e.active.detach()) for e in encoded)
        return StepReport(float(fvu), active / (n * batch.n_tokens), learner.dead_share)

    def transcoders(self) -> CrossLayerTranscoder:
        """The transcoder, as it is now."""
        return self._transcoder

    def finished(self) -> CrossLayerTranscoder:
        """The transcoder, frozen."""
        freeze(self._transcoder)
        return self._transcoder

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on."""
        return self._learner.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue where the fit that gave this state stood."""
        self._learner.load_state(state)

    def _threshold(self, i: int) -> Tensor | None:
        return None if self._transcoder.threshold is None else self._transcoder.threshold[i]

    def _start(self, batch: Batch) -> None:
        t = self._transcoder
        measured = {
            layer: Units.of(batch.x[layer], batch.y[layer], layer=layer) for layer in t.layers
        }
        units = measured if self._config.data_units else dict.fromkeys(t.layers, Units())
        for i, layer in enumerate(t.layers):
            weights = {
                "W_enc": t.W_enc[i],
                "b_enc": t.b_enc[i],
                "W_dec": t.W_dec[i][0],
                "b_dec": t.b_dec[i],
            }
            start(
                batch.x[layer],
                batch.y[layer],
                units[layer],
                **weights,
                threshold=self._threshold(i),
            )
            x_unit, y_unit = units[layer].x, units[layer].y
            self._learner.measure_in({f"W_enc.{i}": 1 / x_unit, f"b_dec.{i}": y_unit})
            self._learner.measure_in(
                {f"W_dec.{i}.{j}": units[target].y for j, target in enumerate(t.layers[i:])}
            )
            if t.W_skip is not None:
                self._learner.measure_in({f"W_skip.{i}": y_unit / x_unit})

    def _encode(self, batch: Batch) -> list[Encoded]:
        t, config = self._transcoder, self._config
        return [
            encode(
                config.activation,
                batch.x[layer],
                t.W_enc[i],
                t.b_enc[i],
                self._threshold(i),
                window=config.window,
            )
            for i, layer in enumerate(t.layers)
        ]

    def _losses(self, encoded: list[Encoded], batch: Batch) -> list[Loss]:
        t, dead = self._transcoder, self._learner.dead
        # Taken apart once: a gradient through W_dec[i][j] would be as large as W_dec[i] for every j.
        targets = [W_dec.unbind(0) for W_dec in t.W_dec]
        variances = torch.stack([total_variance(batch.y[layer]) for layer in t.layers])
        found = []
        for j, layer in enumerate(t.layers):
            x, y = batch.x[layer], batch.y[layer]
            y_hat = t.b_dec[j] + sum(
                encoded[i].features.matmul(targets[i][j - i]) for i in range(j + 1)
            )
            if t.W_skip is not None:
                y_hat = y_hat + x @ t.W_skip[j]
            weights = LossInputs(
                W_enc=t.W_enc[j],
                b_enc=t.b_enc[j],
                W_dec=t.W_dec[j],
                dead=dead[j],
                variances=variances[j:],
            )
            found.append(objective(self._config, weights, encoded[j], x=x, y=y, y_hat=y_hat))
        return found
