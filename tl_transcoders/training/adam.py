"""Adam over a module's parameters, each taken in the order its memory has."""

from collections.abc import Mapping
from typing import Final, final

import torch
from torch import Tensor, nn

FUSED_DEVICES: Final = ("cpu", "cuda", "mps", "xpu")


@final
class Adam:
    """torch's Adam, fused where the device has it, on contiguous views of the parameters.

    W_enc is the transpose of contiguous memory. torch's fused kernel would copy it, its gradient and both
    moments into place and back at every step.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, lr: float, betas: tuple[float, float]
    ) -> None:
        self._parameters = dict(parameters)
        self._views = {name: nn.Parameter(in_memory_order(p)) for name, p in parameters.items()}
        fused = all(p.device.type in FUSED_DEVICES for p in self._views.values())
        self._adam = torch.optim.Adam(
            self._views.values(), lr=lr, betas=betas, fused=fused, foreach=not fused
        )
        self._lr = lr

    def step(self, *, lr_scale: float) -> None:
        """Apply the parameters' gradients and drop them."""
        for name, view in self._views.items():
            parameter = self._parameters[name]
            view.grad = None if parameter.grad is None else in_memory_order(parameter.grad)
            parameter.grad = None
        self._adam.param_groups[0]["lr"] = self._lr * lr_scale
        self._adam.step()
        self._adam.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """The moments and step counts by name."""
        return {
            f"{name}.{key}": value
            for name, view in self._views.items()
            for key, value in self._adam.state[view].items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        for name, view in self._views.items():
            keys = [key for key in state if key.rpartition(".")[0] == name]
            self._adam.state[view] = {key.rpartition(".")[2]: state[key].clone() for key in keys}


def in_memory_order(tensor: Tensor) -> Tensor:
    """The tensor, or its transpose where that is the contiguous one; detached."""
    return tensor.detach() if tensor.is_contiguous() else tensor.detach().T
