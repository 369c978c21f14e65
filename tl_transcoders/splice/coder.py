"""One face for the two ways a layer can be reconstructed: from its own features, or from every earlier layer's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from tl_transcoders.splice.finite import check_written, has_large_decoder
from tl_transcoders.splice.forward_state import ForwardState
from tl_transcoders.transcoders import CrossLayerTranscoder, SparseFeatures, Transcoder

Features = Tensor | SparseFeatures


@final
@dataclass(frozen=True, slots=True)
class Reconstruction:
    """A layer's output from its features as hooks left them, and as they were before."""

    edited: Tensor
    unedited: Tensor


@runtime_checkable
class Coder(Protocol):
    """What `HookedTranscoder` asks of the maths."""

    def pre_activations(self, x: Tensor) -> Tensor:
        """Dense pre-activations."""
        ...

    def activate(self, pre: Tensor) -> Tensor:
        """Dense activations."""
        ...

    def features(self, x: Tensor) -> Features:
        """Activations in the form that decodes fastest."""
        ...

    def features_and_dense(self, x: Tensor) -> tuple[Features, Tensor]:
        """The same, and dense."""
        ...

    def reconstruct(self, features: Features, unedited: Features, x: Tensor) -> Reconstruction:
        """Decode both; `unedited is features` where no hook changed anything."""
        ...


@final
class OwnLayer:
    """A transcoder, decoding its own features."""

    def __init__(self, transcoder: Transcoder) -> None:
        self.pre_activations = transcoder.pre_activations
        self.activate = transcoder.activate
        self.features = transcoder.features
        self.features_and_dense = transcoder.features_and_dense
        self._transcoder = transcoder
        self._check = has_large_decoder(transcoder)

    def reconstruct(self, features: Features, unedited: Features, x: Tensor) -> Reconstruction:
        """Decode both."""
        edited = self._decode(features, x)
        if unedited is features:
            return Reconstruction(edited, edited)
        with torch.no_grad():
            return Reconstruction(edited, self._decode(unedited, x))

    def _decode(self, features: Features, x: Tensor) -> Tensor:
        y = self._transcoder.decode(features, x)
        if self._check:
            check_written(self._transcoder.cfg.layer, y, x, [features])
        return y


@final
class CrossLayer:
    """One layer of a cross-layer transcoder, decoding the features every layer so far has left in the state."""

    def __init__(self, clt: CrossLayerTranscoder, layer: int, state: ForwardState) -> None:
        self._clt, self._layer, self._state = clt, layer, state
        self._check = has_large_decoder(clt)

    def pre_activations(self, x: Tensor) -> Tensor:
        """Of this layer."""
        return self._clt.pre_activations(self._layer, x)

    def activate(self, pre: Tensor) -> Tensor:
        """Of this layer."""
        return self._clt.activate(self._layer, pre)

    def features(self, x: Tensor) -> Features:
        """Of this layer."""
        return self._clt.features(self._layer, x)

    def features_and_dense(self, x: Tensor) -> tuple[Features, Tensor]:
        """Of this layer."""
        return self._clt.features_and_dense(self._layer, x)

    def reconstruct(self, features: Features, unedited: Features, x: Tensor) -> Reconstruction:
        """Decode every layer's features up to this one."""
        state = self._state
        state.edited[self._layer], state.unedited[self._layer] = features, unedited
        changed = any(state.edited[i] is not state.unedited[i] for i in state.edited)
        edited = self._decode(state.edited, x)
        before = edited
        if changed:
            with torch.no_grad():
                before = self._decode(state.unedited, x)
        if self._layer == self._clt.layers[-1]:
            state.forget_features()
        return Reconstruction(edited, before)

    def _decode(self, features: Mapping[int, Features], x: Tensor) -> Tensor:
        y = self._clt.decode(self._layer, features, x)
        if self._check:
            check_written(self._layer, y, x, features.values())
        return y
