"""What the caller of `load` asked for, apart from the place."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.transcoders.layers import layer_numbers

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which layers and which variant, as which dtype, where, and how strictly checked.

    `layers=None` means all of them. `width`, `l0` and `kind` choose where a repository offers several sets of
    transcoders (Gemma Scope: `"16k"`, `"small"`, `"transcoder_all"`). `trust` names further repositories from
    which a config may take files.

    **Raises:** ConfigError for an empty choice of layers or a dtype that weights cannot have.
    """

    layers: frozenset[int] | None
    width: str | None
    l0: str | None
    kind: str | None
    dtype: torch.dtype | None
    device: torch.device
    verify: bool
    trust: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.layers is not None and not self.layers:
            raise ConfigError(
                "layers",
                got="an empty list",
                expected="at least one layer",
                do="Name the layers to load, or leave layers out to load all of them.",
            )
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(
                "dtype",
                got=str(self.dtype) if isinstance(self.dtype, torch.dtype) else repr(self.dtype),
                expected="a floating-point dtype",
                do="Choose torch.float32 or torch.bfloat16.",
            )

    def choose(self, available: Collection[int], where: str) -> tuple[int, ...]:
        """The layers asked for, ascending; raises TranscoderFormatError where `available` lacks one."""
        chosen = frozenset(available) if self.layers is None else self.layers
        missing = sorted(chosen.difference(available))
        if missing:
            raise TranscoderFormatError(
                where,
                got=f"a request for layers {missing}",
                expected=f"some of the layers it holds, {sorted(available)}",
                do="Choose layers the set holds.",
            )
        return tuple(sorted(chosen))

    def refuse_variants(self, where: str) -> None:
        """Raise ConfigError where a variant is chosen, because `where` holds one set only."""
        chosen = {"width": self.width, "l0": self.l0, "kind": self.kind}
        given = [f"{name}={value!r}" for name, value in chosen.items() if value is not None]
        if given:
            raise ConfigError(
                where,
                got=", ".join(given),
                expected="no choice of a variant, because there is only one",
                do="Leave these arguments out.",
            )

    def place(self, tensor: Tensor) -> Tensor:
        """`tensor` with the dtype and on the device asked for: the same memory where both already fit."""
        return tensor.to(device=self.device, dtype=self.dtype or tensor.dtype)


def make_request(
    *,
    layers: Iterable[int] | None,
    width: str | None,
    l0: str | int | None,
    kind: str | None,
    dtype: torch.dtype | None,
    device: torch.device | str,
    verify: bool,
    trust: Iterable[str] = (),
) -> Request:
    """A `Request` of the arguments of `load`."""
    return Request(
        layers=None if layers is None else frozenset(layer_numbers(layers)),
        width=width,
        l0=None if l0 is None else str(l0),
        kind=kind,
        dtype=dtype,
        device=_usable(device),
        verify=verify,
        trust=frozenset([trust] if isinstance(trust, str) else trust),
    )


def _usable(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ConfigError(
            "device",
            got=repr(device),
            expected="a device that torch can use here",
            do=f"Choose another, such as 'cpu'. torch says: {str(error).splitlines()[0]}",
        ) from error
