"""A spliced model as what its weights write into the residual stream and read from it, norm scales left out.

    a norm                x ↦ gain ⊙ C x        C subtracts the mean in LayerNorm, and is the identity in RMSNorm

Whatever a norm divides by depends on the input and belongs to the other factor of an effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.checks import check_spliced
from tl_transcoders.circuits.graphs import Difference, Token
from tl_transcoders.circuits.nodes import Embed, Feature, Logits
from tl_transcoders.circuits.weights.ends import Features, Source, Target
from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import Block, Norm, token_embeddings
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.forward import TracedModel
from tl_transcoders.splice.trace.run import take_apart
from tl_transcoders.splice.trace.swap import Swap


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenRows:
    """Rows that something writes behind the MLP of `layer` (None: into the first block), through a post-norm."""

    layer: int | None
    rows: Float[Tensor, "n d_model"]
    norm: Norm | None = None

    def take(
        self, rows: slice | Int[Tensor, " m"], dtype: torch.dtype
    ) -> Float[Tensor, "m d_model"]:
        """Some of them, in the stream."""
        found = self.rows[rows].to(dtype)
        return found if self.norm is None else self.norm.centre(found) * self.norm.gain.to(dtype)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRows:
    """Rows that something reads with, through a norm (its gain too, or the centring alone)."""

    rows: Float[Tensor, "n d_model"]
    norm: Norm | None
    gain: bool = True
    less: Float[Tensor, " d_model"] | None = None

    def take(
        self, rows: slice | Int[Tensor, " m"], dtype: torch.dtype
    ) -> Float[Tensor, "m d_model"]:
        """Some of them, as they meet the stream."""
        found = self.rows[rows].to(dtype)
        found = found if self.less is None else found - self.less
        if self.norm is None:
            return found
        return self.norm.centre(found * self.norm.gain.to(dtype) if self.gain else found)


@final
class Stream:
    """The weights of a spliced model around its residual stream."""

    def __init__(self, spliced: Spliced, model: TracedModel | None = None) -> None:
        check_spliced(spliced)
        self.spliced = spliced
        self.model = take_apart(spliced) if model is None else model
        self.dtype = torch.promote_types(self.model.anatomy.W_U.dtype, torch.float32)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.model.n_layers

    @cached_property
    def W_E(self) -> Float[Tensor, "vocab d_model"]:
        """The embeddings of all tokens."""
        return token_embeddings(self.spliced.host)

    def block(self, layer: int) -> Block:
        """A layer."""
        return self.model.anatomy.blocks[layer]

    def swap(self, layer: int) -> Swap:
        """The transcoder of a layer; raises ConfigError where there is none."""
        found = self.model.swaps.get(layer)
        if found is None:
            raise ConfigError(
                f"features of layer {layer}",
                got="a layer without a transcoder",
                expected=f"one of {sorted(self.model.swaps)}",
                do="Choose a spliced layer (SAEs have no part in this).",
            )
        return found

    def written(self, source: Source) -> tuple[WrittenRows, ...]:
        """What a source writes, layer by layer: cross-layer features write behind several MLPs."""
        match source:
            case Features(layer):
                return self._decoders(layer, slice(None))
            case Feature(layer, index):
                self.check_feature(layer, index)
                return self._decoders(layer, slice(index, index + 1))
            case Embed():
                return (WrittenRows(layer=None, rows=self.W_E),)
            case Token(token):
                self.check_token(token)
                return (WrittenRows(layer=None, rows=self.W_E[token : token + 1]),)
            case _:
                raise _no_end("source", source, "Features(layer), Feature, Embed() or Token")

    def read(self, target: Target) -> ReadRows:
        """What a target reads with."""
        anatomy = self.model.anatomy
        match target:
            case Features(layer):
                return self._encoders(self.swap(layer), slice(None))
            case Feature(layer, index):
                self.check_feature(layer, index)
                return self._encoders(self.swap(layer), slice(index, index + 1))
            case Logits():
                rows = anatomy.W_U.T
                return ReadRows(rows=rows, norm=anatomy.ln_final, less=self._mean_unembedding)
            case Token(token):
                self.check_token(token)
                rows = anatomy.W_U.T[token : token + 1]
                return ReadRows(rows=rows, norm=anatomy.ln_final, less=self._mean_unembedding)
            case Difference(good, bad):
                self.check_token(good)
                self.check_token(bad)
                rows = (anatomy.W_U[:, good] - anatomy.W_U[:, bad])[None]
                return ReadRows(rows=rows, norm=anatomy.ln_final)
            case _:
                expected = "Features(layer), Feature, Logits(), Token or Difference"
                raise _no_end("target", target, expected)

    def check_feature(self, layer: int, index: int) -> None:
        """Raise ConfigError for a feature that is not there."""
        n = self.swap(layer).n_features
        if not 0 <= index < n:
            raise ConfigError(
                f"f{layer}.{index}",
                got=f"a layer of {n} features",
                expected=f"a feature from 0 to {n - 1}",
                do="Choose one of them.",
            )

    def check_token(self, token: int) -> None:
        """Raise ConfigError for a token outside the vocabulary."""
        vocab = self.model.anatomy.W_U.shape[1]
        if not 0 <= token < vocab:
            raise ConfigError(
                f"token {token}",
                got=f"a vocabulary of {vocab}",
                expected=f"a token from 0 to {vocab - 1}",
                do="Correct it.",
            )

    def check_head(self, layer: int, head: int) -> None:
        """Raise ConfigError for a head that is not there."""
        n = self.block(layer).attention.n_heads if 0 <= layer < self.n_layers else 0
        if not 0 <= head < n:
            raise ConfigError(
                f"a{layer}.h{head}",
                got=f"{n} heads in layer {layer} of {self.n_layers} layers",
                expected="a layer and head of the model",
                do="Choose one of them.",
            )

    @cached_property
    def _mean_unembedding(self) -> Float[Tensor, " d_model"]:
        return self.model.anatomy.W_U.to(self.dtype).mean(1)

    def _decoders(self, layer: int, rows: slice) -> tuple[WrittenRows, ...]:
        self.swap(layer)
        return tuple(
            WrittenRows(layer=at, rows=swap.decoder(layer)[rows], norm=self.block(at).ln2_post)
            for at, swap in sorted(self.model.swaps.items())
            if layer in swap.sources
        )

    def _encoders(self, swap: Swap, rows: slice) -> ReadRows:
        site = swap.coder.cfg.read
        norm = None if site == "resid_mid" else self.block(swap.layer).ln2
        return ReadRows(rows=swap.encoders[rows], norm=norm, gain=site == "mlp_in")


def total(
    parts: Sequence[WrittenRows], rows: slice | Int[Tensor, " m"], dtype: torch.dtype
) -> Float[Tensor, "m d_model"]:
    """All that some rows write, norm scales left out."""
    return torch.stack([part.take(rows, dtype) for part in parts]).sum(0)


def _no_end(what: str, got: object, expected: str) -> ConfigError:
    return ConfigError(f"connections, {what}", got=repr(got), expected=expected, do="Correct it.")
