"""Transcoders of any subset of a model's layers, with the record of where they came from."""

from collections.abc import Iterator, Mapping
from typing import Self, final

import torch

from tl_transcoders.errors import ConfigError, UnknownLayerError
from tl_transcoders.transcoders.layers import layer_numbers
from tl_transcoders.transcoders.origin import Origin
from tl_transcoders.transcoders.transcoder import Transcoder


@final
class TranscoderSet(Mapping[int, Transcoder]):
    """A mapping from layer to transcoder; widths, activations and taps may differ between layers.

    **Arguments:** `transcoders`, keyed by layer; `origin`, the record of where they came from.

    **Raises:** ConfigError for an empty set, or a key that is not its transcoder's layer.

    ```python
    cfg = TranscoderConfig(layer=3, d_in=5, d_out=5, n_features=11)
    transcoders = TranscoderSet({3: Transcoder.init(cfg, seed=0)})
    transcoders[3].W_dec
    ```
    """

    def __init__(
        self, transcoders: Mapping[int, Transcoder], *, origin: Origin | None = None
    ) -> None:
        _check_transcoders(transcoders)
        if not transcoders:
            raise ConfigError(
                "transcoder set",
                got="no layers",
                expected="at least one transcoder",
                do="Name the layers to replace.",
            )
        for layer, transcoder in transcoders.items():
            if transcoder.cfg.layer != layer:
                raise ConfigError(
                    f"transcoder set, key {layer}",
                    got=f"a transcoder of layer {transcoder.cfg.layer}",
                    expected=f"one of layer {layer}",
                    do="Key every transcoder by its own layer.",
                )
        self._transcoders = {layer: transcoders[layer] for layer in sorted(transcoders)}
        self.origin = Origin() if origin is None else origin

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it holds, ascending."""
        return tuple(self._transcoders)

    def select(self, layers: list[int] | range) -> Self:
        """The same set with these layers only; a layer it does not hold raises ConfigError."""
        chosen = layer_numbers(layers)
        missing = sorted(set(chosen) - set(self.layers))
        if missing:
            raise ConfigError(
                "transcoder set",
                got=f"layers {missing}",
                expected=f"a subset of {list(self.layers)}",
                do="Choose layers the set holds.",
            )
        return type(self)({layer: self[layer] for layer in chosen}, origin=self.origin)

    def to(self, *args: torch.device | torch.dtype | str) -> Self:
        """Move or cast every transcoder in place, as `nn.Module.to` does, and return the set."""
        for transcoder in self.values():
            transcoder.to(*args)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return self

    def __getitem__(self, layer: int) -> Transcoder:
        if layer not in self._transcoders:
            raise UnknownLayerError(
                "transcoder set",
                got=f"layer {layer!r}",
                expected=f"one of {list(self.layers)}",
                do="Choose a layer the set holds.",
            )
        return self._transcoders[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self._transcoders)

    def __len__(self) -> int:
        return len(self._transcoders)

    def __repr__(self) -> str:
        lines = (f"  {layer}: {t.extra_repr()}" for layer, t in self.items())
        return "\n".join([f"TranscoderSet({self.origin}", *lines, ")"])


def _check_transcoders(given: object) -> None:
    if isinstance(given, Mapping):
        got = str({layer: type(transcoder).__name__ for layer, transcoder in given.items()})
        if all(type(n) is int and isinstance(t, Transcoder) for n, t in given.items()):
            return
    else:
        got = type(given).__name__
    raise ConfigError(
        "transcoder set",
        got=got,
        expected="a mapping from layer numbers to Transcoders",
        do="Write TranscoderSet({transcoder.cfg.layer: transcoder, ...}).",
    )
