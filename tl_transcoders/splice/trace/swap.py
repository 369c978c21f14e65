"""One spliced layer as a function of what it reads, away from the host."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_transcoders._types import ErrorPolicy, Site
from tl_transcoders.hosts import Block
from tl_transcoders.transcoders import (
    CrossLayerTranscoder,
    SparseFeatures,
    Transcoder,
)

Features = Tensor | SparseFeatures


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """A transcoder (or one layer of a cross-layer one) in the place of `original`, or an SAE at its site.

    `stored_error` is that of the base run a splice with error="freeze" was given.
    """

    layer: int
    coder: Transcoder | CrossLayerTranscoder
    original: nn.Module
    policy: ErrorPolicy
    stored_error: Tensor | None = None

    @property
    def site(self) -> Site | None:
        """The site of an SAE; None for a transcoder."""
        cfg = self.coder.cfg
        return cfg.read if cfg.read == cfg.write else None

    def read(
        self,
        block: Block,
        x: Float[Tensor, "batch pos d_model"],
        scale: Float[Tensor, "batch pos 1"] | None = None,
    ) -> Float[Tensor, "batch pos d_in"]:
        """What the transcoder reads, of the residual stream its MLP reads; `scale` stands for the norm's own σ."""
        match self.coder.cfg.read:
            case "mlp_in":
                return block.ln2(x, scale)
            case "ln2_normalized":
                return block.ln2.normalized(x, scale)
            case _:
                return x

    def push(
        self,
        block: Block,
        x: Float[Tensor, "*#batch d_model"],
        change: Float[Tensor, "*#batch d_model"],
    ) -> Float[Tensor, "*batch d_model"]:
        """What a small change of the residual stream x makes of what the transcoder reads."""
        match self.coder.cfg.read:
            case "mlp_in":
                return block.ln2.push(x, change)
            case "ln2_normalized":
                return block.ln2.push_normalized(x, change)
            case _:
                return change

    def pull(
        self,
        block: Block,
        x: Float[Tensor, "*#batch d_model"],
        gradient: Float[Tensor, "*#batch d_in"],
    ) -> Float[Tensor, "*batch d_in"]:
        """The gradient of the residual stream x from that of what the transcoder reads."""
        match self.coder.cfg.read:
            case "mlp_in":
                return block.ln2.pull(x, gradient)
            case "ln2_normalized":
                return block.ln2.pull_normalized(x, gradient)
            case _:
                return gradient

    @property
    def encoders(self) -> Float[Tensor, "feature d_in"]:
        """The encoders of all features."""
        W_enc = self.coder.W_enc
        if isinstance(self.coder, CrossLayerTranscoder):
            W_enc = W_enc[self.coder.layers.index(self.layer)]
        assert isinstance(W_enc, Tensor)
        return W_enc.T

    def encoder_rows(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n d_in"]:
        """The encoders of some features."""
        return self.encoders[index]

    def encoder(
        self, index: int
    ) -> tuple[Float[Tensor, " d_in"], Float[Tensor, ""], Float[Tensor, ""] | None]:
        """Encoder, bias and threshold of one feature."""
        weights = (self.coder.W_enc, self.coder.b_enc, self.coder.threshold)
        if isinstance(self.coder, CrossLayerTranscoder):
            i = self.coder.layers.index(self.layer)
            W_enc, b_enc, threshold = (None if w is None else w[i] for w in weights)
        else:
            W_enc, b_enc, threshold = weights
        assert isinstance(W_enc, Tensor)
        assert isinstance(b_enc, Tensor)
        theta = threshold[index] if isinstance(threshold, Tensor) else None
        return W_enc[:, index], b_enc[index], theta

    def pre_activations(
        self, x: Float[Tensor, "batch pos d_in"]
    ) -> Float[Tensor, "batch pos feature"]:
        """Dense pre-activations."""
        x = x.to(self.coder.W_enc[0].dtype)
        if isinstance(self.coder, CrossLayerTranscoder):
            return self.coder.pre_activations(self.layer, x)
        return self.coder.pre_activations(x)

    def encode(self, x: Float[Tensor, "batch pos d_in"]) -> Features:
        """Feature activations."""
        x = x.to(self.coder.W_enc[0].dtype)
        if isinstance(self.coder, CrossLayerTranscoder):
            return self.coder.features(self.layer, x)
        return self.coder.features(x)

    def decode(
        self,
        features: Mapping[int, Features],
        x: Float[Tensor, "batch pos d_in"],
        carried: Float[Tensor, "batch pos d_out"] | None = None,
    ) -> Float[Tensor, "batch pos d_out"]:
        """The reconstruction from the features of the layers given, plus what others have `carried` here."""
        x = x.to(self.b_dec.dtype)
        y = self.b_dec if carried is None else carried + self.b_dec
        for source in self.sources:
            if source in features:
                y = y + product(features[source], self.decoder(source))
        return y if self.W_skip is None else y + x @ self.W_skip

    def decoder(self, source: int) -> Float[Tensor, "feature d_out"]:
        """The decoder with which the features of layer `source` write here."""
        if isinstance(self.coder, CrossLayerTranscoder):
            layers = self.coder.layers
            i = layers.index(source)
            return self.coder.W_dec[i][layers.index(self.layer) - i]
        return self.coder.W_dec

    @property
    def sources(self) -> tuple[int, ...]:
        """The layers whose features write here."""
        if isinstance(self.coder, CrossLayerTranscoder):
            layers = self.coder.layers
            return layers[: layers.index(self.layer) + 1]
        return (self.layer,)

    @property
    def b_dec(self) -> Float[Tensor, " d_out"]:
        """The bias of what it writes."""
        if isinstance(self.coder, CrossLayerTranscoder):
            return self.coder.b_dec[self.coder.layers.index(self.layer)]
        return self.coder.b_dec

    @property
    def b_enc(self) -> Float[Tensor, " feature"]:
        """The biases of its features' pre-activations."""
        if isinstance(self.coder, CrossLayerTranscoder):
            return self.coder.b_enc[self.coder.layers.index(self.layer)]
        return self.coder.b_enc

    @property
    def W_skip(self) -> Float[Tensor, "d_in d_out"] | None:
        """The skip connection, where there is one."""
        if isinstance(self.coder, Transcoder):
            return self.coder.W_skip
        skips = self.coder.W_skip
        return None if skips is None else skips[self.coder.layers.index(self.layer)]

    @property
    def n_features(self) -> int:
        """How many features it has."""
        return self.coder.cfg.n_features


def product(
    features: Features, weight: Float[Tensor, "feature d_out"]
) -> Float[Tensor, "batch pos d_out"]:
    """features @ weight, in whichever form the features are."""
    return features.matmul(weight) if isinstance(features, SparseFeatures) else features @ weight


def dense(features: Features) -> Float[Tensor, "batch pos feature"]:
    """The dense tensor."""
    return features.to_dense() if isinstance(features, SparseFeatures) else features


def sparse(features: Features) -> SparseFeatures:
    """The active entries, without gradients."""
    if isinstance(features, SparseFeatures):
        return replace(features, values=features.values.detach())
    return SparseFeatures.from_dense(features.detach())
