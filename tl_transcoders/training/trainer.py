"""One transcoder being fitted to pairs (x, y)."""

from collections.abc import Mapping
from typing import Self, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.training.config import TrainConfig
from tl_transcoders.training.encode import fired, reconstruct
from tl_transcoders.training.learner import Learner
from tl_transcoders.training.losses import total_variance
from tl_transcoders.training.objective import LossInputs, objective
from tl_transcoders.training.report import StepReport
from tl_transcoders.training.start import Units, initial_transcoder, settle, start
from tl_transcoders.transcoders import Transcoder, TranscoderConfig


@final
class Trainer:
    """Fits a transcoder, in place, to batches of inputs and outputs.

    Before the first step, b_dec becomes the mean of y, b_enc centres the pre-activations, and with
    `config.data_units` the encoder is scaled so that they have spread 1.

    ```python
    config = TrainConfig(n_features=11, activation=TopK(2))
    trainer = Trainer.new(config.coder_config(layer=0, d_in=5, d_out=5, folded=False), config, seed=0)
    x = torch.randn(17, 5)
    report = trainer.step(x, x.relu())
    ```
    """

    def __init__(self, transcoder: Transcoder, config: TrainConfig) -> None:
        self.transcoder, self.config = transcoder, config
        silent_for = torch.zeros_like(transcoder.b_enc, dtype=torch.int64)
        self._learner = Learner(transcoder, config, silent_for=silent_for)

    @classmethod
    def new(cls, cfg: TranscoderConfig, config: TrainConfig, *, seed: int) -> Self:
        """A trainer of a fresh transcoder."""
        return cls(initial_transcoder(cfg, seed=seed), config)

    @torch.enable_grad()
    def step(
        self,
        x: Float[Tensor, "row d_in"],
        y: Float[Tensor, "row d_out"],
        *,
        lr_scale: float = 1.0,
    ) -> StepReport:
        """One step of Adam on one batch; `lr_scale` multiplies the learning rate."""
        t, config, learner = self.transcoder, self.config, self._learner
        first = not learner.begun
        if first:
            self._start(x, y)
        encoded, y_hat = reconstruct(t, x, window=config.window)
        layer = LossInputs(
            W_enc=t.W_enc,
            b_enc=t.b_enc,
            W_dec=t.W_dec[None],
            dead=learner.dead,
            variances=total_variance(y)[None],
        )
        loss = objective(config, layer, encoded, x=x, y=y, y_hat=y_hat)
        learner.step(loss.total, lr_scale=lr_scale)
        settle(t.threshold, encoded.boundary, first=first)
        learner.count(fired(encoded.features), n_tokens=len(x))
        return StepReport(
            float(loss.fvu), float(encoded.active.detach()) / len(x), learner.dead_share
        )

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on."""
        return self._learner.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue where the trainer that gave this state stood."""
        self._learner.load_state(state)

    def _start(self, x: Tensor, y: Tensor) -> None:
        t, measured = self.transcoder, Units.of(x, y, layer=self.transcoder.cfg.layer)
        units = measured if self.config.data_units else Units()
        weights = {"W_enc": t.W_enc, "b_enc": t.b_enc, "W_dec": t.W_dec, "b_dec": t.b_dec}
        start(x, y, units, **weights, threshold=t.threshold)
        self._learner.measure_in({"W_enc": 1 / units.x, "W_dec": units.y, "b_dec": units.y})
        if t.W_skip is not None:
            self._learner.measure_in({"W_skip": units.y / units.x})
