"""The loop over a stream of batches: schedule, progress bar, checkpoints, Ctrl-C."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from tqdm import tqdm

from tl_transcoders.errors import ConfigError
from tl_transcoders.training.checkpoint import (
    Checkpoint,
    Progress,
    read_checkpoint,
    write_checkpoint,
)
from tl_transcoders.training.config import TrainConfig
from tl_transcoders.training.fit import AbstractFit
from tl_transcoders.training.interrupt import DeferredInterrupt
from tl_transcoders.training.report import StepReport
from tl_transcoders.training.stream import Batch, Position
from tl_transcoders.transcoders import CrossLayerTranscoder

OnStep = Callable[[int, StepReport], None]


@final
@dataclass(slots=True)
class Run:
    """A fit, the config it follows, and how far it has come."""

    fit: AbstractFit
    config: TrainConfig
    layers: tuple[int, ...]
    n_tokens: int
    progress: Progress = field(default_factory=Progress)

    def resume(self, folder: str | Path) -> None:
        """Continue where the checkpoint in `folder` stands; raises ConfigError where it is of another run."""
        checkpoint = read_checkpoint(folder)
        mine, theirs = self.describe(), checkpoint.run
        different = sorted(key for key in mine | theirs if mine.get(key) != theirs.get(key))
        if different:
            raise ConfigError(
                f"resume from {folder}",
                got=", ".join(f"{key}={mine.get(key)!r}" for key in different),
                expected=", ".join(f"{key}={theirs.get(key)!r}" for key in different),
                do="Resume with the layers, tokens and config of the run that wrote the checkpoint.",
            )
        self.fit.load_state(checkpoint.tensors)
        self.progress = checkpoint.progress

    def describe(self) -> dict[str, object]:
        """What must be equal for a checkpoint to fit: model, layers, length, and the config but for its checkpoints."""
        config = self.config.to_dict()
        del config["checkpoint"], config["checkpoint_every"]
        made = self.fit.transcoders()
        cross_layer = isinstance(made, CrossLayerTranscoder)
        cfgs = [made.cfg] if cross_layer else [transcoder.cfg for transcoder in made.values()]
        model = {
            "model_name": made.origin.model_name,
            "folded": cfgs[0].folded,
            "d_in": cfgs[0].d_in,
            "d_out": cfgs[0].d_out,
        }
        run = {"layers": list(self.layers), "cross_layer": cross_layer}
        return {**run, **model, **config, "n_tokens": self.n_tokens}

    def go(
        self, batches: Callable[[Position], Iterable[Batch]], *, on_step: OnStep | None = None
    ) -> None:
        """Step through `batches(position)` until `n_tokens` are seen or the stream ends."""
        if self.config.checkpoint is None:
            for _ in self._steps(batches, on_step):
                pass
        else:
            self._go_with_checkpoints(batches, Path(self.config.checkpoint), on_step)

    def _go_with_checkpoints(
        self,
        batches: Callable[[Position], Iterable[Batch]],
        folder: Path,
        on_step: OnStep | None,
    ) -> None:
        with DeferredInterrupt() as interrupt:
            for progress in self._steps(batches, on_step):
                if interrupt.pending:
                    break
                if progress.steps % self.config.checkpoint_every == 0:
                    self.save(folder)
            last = self.save(folder)
            if interrupt.pending:
                raise self._stopped(last)

    def _stopped(self, checkpoint: Path) -> KeyboardInterrupt:
        stopped = KeyboardInterrupt()
        stopped.add_note(
            f"training stopped after {self.progress.steps} steps; the transcoders so far are in {checkpoint}; "
            f"train(..., resume={str(checkpoint.parent)!r}) continues"
        )
        return stopped

    def _steps(
        self, batches: Callable[[Position], Iterable[Batch]], on_step: OnStep | None
    ) -> Iterator[Progress]:
        if self.progress.tokens >= self.n_tokens:
            return
        with self._bar() as bar:
            for batch in batches(self.progress.position):
                report = self._step(batch)
                bar.set_postfix_str(str(report), refresh=False)
                bar.update(batch.n_tokens)
                if on_step is not None:
                    on_step(self.progress.tokens, report)
                yield self.progress
                if self.progress.tokens >= self.n_tokens:
                    return

    def _step(self, batch: Batch) -> StepReport:
        done = self.progress
        share = (done.tokens + batch.n_tokens / 2) / self.n_tokens
        report = self.fit.step(batch, lr_scale=lr_scale(share, self.config))
        if not math.isfinite(report.fvu):
            raise ConfigError(
                f"training, step {done.steps + 1}",
                got=f"FVU {report.fvu}",
                expected="a finite number",
                do="Lower lr, and check that the activations at the sites are finite and not constant.",
            )
        self.progress = Progress(
            steps=done.steps + 1,
            tokens=done.tokens + batch.n_tokens,
            position=batch.following,
        )
        return report

    def save(self, folder: Path) -> Path:
        """Write a checkpoint."""
        checkpoint = Checkpoint(
            run=self.describe(), progress=self.progress, tensors=self.fit.state()
        )
        return write_checkpoint(folder, checkpoint, self.fit.transcoders())

    def _bar(self) -> "tqdm[Any]":
        return tqdm(
            total=self.n_tokens,
            initial=self.progress.tokens,
            desc="Training",
            unit="tok",
            unit_scale=True,
            disable=None,
        )


def lr_scale(share: float, config: TrainConfig) -> float:
    """The learning rate, in units of `config.learning_rate`, when this share of the run is done.

    It rises in a line over the first `warmup`, and falls in a line to 0 over the last `decay`.
    """
    rising = share / config.warmup if config.warmup else 1.0
    falling = (1 - share) / config.decay if config.decay else 1.0
    return max(0.0, min(1.0, rising, falling))
