"""What the loop drives: something that learns from batches, and whose whole state can be kept."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from tl_transcoders.training.report import StepReport
from tl_transcoders.training.stream import Batch
from tl_transcoders.transcoders import CrossLayerTranscoder, TranscoderSet


class AbstractFit(ABC):
    """Transcoders of several layers in training."""

    @abstractmethod
    def step(self, batch: Batch, *, lr_scale: float) -> StepReport:
        """One step of every transcoder, and the mean of their reports."""

    @abstractmethod
    def transcoders(self) -> TranscoderSet | CrossLayerTranscoder:
        """What is being trained, as it is now."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue where the fit that gave this state stood."""
