"""What this package needs of a peer's object: a config that becomes plain data, and a state dict."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from tl_transcoders.errors import ConfigError


@runtime_checkable
class HasConfig(Protocol):
    """A config that becomes plain data."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        ...


@runtime_checkable
class PeerObject(Protocol):
    """A module of SAELens or sparsify."""

    @property
    def cfg(self) -> HasConfig:
        """Its config."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its tensors by name."""
        ...


def config_of(peer: PeerObject, kind: type = PeerObject) -> dict[str, Any]:
    """Its config as plain data; raises ConfigError where it is no object of this kind."""
    if not isinstance(peer, kind) or not isinstance(peer.cfg, HasConfig):
        raise ConfigError(
            "object of a peer",
            got=type(peer).__name__,
            expected="a module with a cfg and a state_dict, as SAELens and sparsify make them",
            do="Pass a single transcoder or SAE; use load for folders and repositories.",
        )
    return peer.cfg.to_dict()


def tensors_of(
    peer: PeerObject, required: Mapping[str, object], optional: Mapping[str, object]
) -> dict[str, Tensor]:
    """Its tensors, detached; raises ConfigError where they are not those of its config."""
    state = {name: tensor.detach() for name, tensor in peer.state_dict().items()}
    missing = sorted(set(required) - set(state))
    unknown = sorted(set(state) - set(required) - set(optional))
    if missing or unknown:
        raise ConfigError(
            type(peer).__name__,
            got=f"unknown tensors {unknown}, missing tensors {missing}",
            expected=f"exactly {sorted(required)}, by its config",
            do="Pass an object whose config describes it.",
        )
    return state
