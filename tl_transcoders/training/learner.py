"""The part of a trainer that does not depend on what is trained."""

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_transcoders.training.adam import Adam, in_memory_order
from tl_transcoders.training.config import TrainConfig
from tl_transcoders.transcoders import BatchTopK


@final
class Learner:
    """A module, Adam over its parameters, and for how many tokens each feature has been silent.

    **Arguments:** `silent_for`, zeros in the shape of the features.
    """

    def __init__(
        self, module: nn.Module, config: TrainConfig, *, silent_for: Int[Tensor, "*layer feature"]
    ) -> None:
        self._module, self._config = module, config
        fixed = ("threshold",) if isinstance(config.activation, BatchTopK) else ()
        trained = {name: p for name, p in module.named_parameters() if not name.startswith(fixed)}
        self._adam = Adam(trained, lr=config.learning_rate, betas=config.betas)
        self._steps = 0
        self._silent_for = silent_for

    @property
    def begun(self) -> bool:
        """Whether there was a step."""
        return self._steps > 0

    @property
    def dead(self) -> Bool[Tensor, "*layer feature"]:
        """Which features have not fired for `dead_after` tokens."""
        return self._silent_for >= self._config.silence

    @property
    def dead_share(self) -> float:
        """The share of dead features."""
        return float(self.dead.double().mean())

    def measure_in(self, units: Mapping[str, float]) -> None:
        """Give parameters (by the names of `adam.memory_views`) the units their learning rate counts in."""
        self._adam.units |= units

    def step(self, loss: Float[Tensor, ""], *, lr_scale: float) -> None:
        """One step of Adam down the gradient of the loss."""
        loss.backward()
        self._adam.step(lr_scale=lr_scale)
        self._steps += 1

    def count(self, fired: Bool[Tensor, "*layer feature"], *, n_tokens: int) -> None:
        """Note which features fired in a batch."""
        self._silent_for += n_tokens
        self._silent_for[fired] = 0

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on."""
        weights = {f"weights.{n}": in_memory_order(p) for n, p in self._module.named_parameters()}
        moments = {f"adam.{name}": tensor for name, tensor in self._adam.state().items()}
        counts = {"steps": torch.tensor(self._steps), "silent_for": self._silent_for}
        return {**weights, **moments, **counts}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue where the learner that gave this state stood."""
        with torch.no_grad():
            for name, parameter in self._module.named_parameters():
                in_memory_order(parameter).copy_(state[f"weights.{name}"])
        moments = {name: tensor for name, tensor in state.items() if name.startswith("adam.")}
        self._adam.load_state({name.removeprefix("adam."): t for name, t in moments.items()})
        self._steps = int(state["steps"])
        self._silent_for.copy_(state["silent_for"])
