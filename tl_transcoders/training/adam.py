"""Adam over a module's parameters, each in the order its memory has and with a learning rate in its own units."""

from collections.abc import Mapping
from typing import Any, Final, final

import torch
from torch import Tensor, nn

FUSED_DEVICES: Final = ("cpu", "cuda", "mps", "xpu")
EPSILON: Final = 1e-8


@final
class Adam:
    """torch's Adam, fused where the device has it, on contiguous views of the parameters.

        view ← view − lr · lr_scale · m̂ / (√v̂ + ε/unit) · unit

    which is Adam on view/unit: scaling a parameter and its unit together changes nothing.

    W_enc is the transpose of contiguous memory: torch's fused kernel would copy it, its gradient and both
    moments into place and back at every step. `units` may be set by the name of a view, and is 1 otherwise.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, lr: float, betas: tuple[float, float]
    ) -> None:
        self._parameters = dict(parameters)
        self._views = {
            name: nn.Parameter(view)
            for parameter_name, parameter in parameters.items()
            for name, view in memory_views(parameter_name, parameter).items()
        }
        self.units = dict.fromkeys(self._views, 1.0)
        fused = all(view.device.type in FUSED_DEVICES for view in self._views.values())
        groups: list[dict[str, Any]] = [{"params": [view]} for view in self._views.values()]
        self._adam = torch.optim.Adam(groups, lr=lr, betas=betas, fused=fused, foreach=not fused)
        self._lr = lr

    def step(self, *, lr_scale: float) -> None:
        """Apply the parameters' gradients and drop them."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                for view_name, grad in memory_views(name, parameter.grad).items():
                    self._views[view_name].grad = grad
                parameter.grad = None
        for group, unit in zip(self._adam.param_groups, self.units.values(), strict=True):
            group["lr"], group["eps"] = self._lr * lr_scale * unit, EPSILON / unit
        self._adam.step()
        self._adam.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """The moments, step counts and units by name."""
        moments = {
            f"{name}/{key}": value
            for name, view in self._views.items()
            for key, value in self._adam.state[view].items()
        }
        units = {name: torch.tensor(unit, dtype=torch.float64) for name, unit in self.units.items()}
        return {**moments, **{f"{name}/unit": unit for name, unit in units.items()}}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        for full_name, tensor in state.items():
            name, _, key = full_name.rpartition("/")
            if key == "unit":
                self.units[name] = float(tensor)
            else:
                self._adam.state[self._views[name]][key] = tensor.to(tensor.device, copy=True)


def memory_views(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Contiguous, detached views that cover a tensor, by name: one for every target of a cross-layer decoder, else one."""
    if tensor.ndim == 3:
        return {f"{name}.{j}": part for j, part in enumerate(tensor.detach())}
    return {name: in_memory_order(tensor)}


def in_memory_order(tensor: Tensor) -> Tensor:
    """The tensor, or its transpose where that is the contiguous one; detached."""
    return tensor.detach() if tensor.is_contiguous() else tensor.detach().T
