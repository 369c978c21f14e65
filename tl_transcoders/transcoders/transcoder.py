"""One transcoder: y = W_dec·act(W_enc·x + b_enc) + b_dec (+ W_skip·x)."""

from collections.abc import Iterable
from typing import Self, final

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from tl_transcoders.errors import ConfigError, ShapeError
from tl_transcoders.transcoders.activations import TopK, activate, needs_threshold
from tl_transcoders.transcoders.config import TranscoderConfig
from tl_transcoders.transcoders.encode import encode_topk, gather_if_sparse, pre_activations
from tl_transcoders.transcoders.sparse import SparseFeatures


@final
class Transcoder(nn.Module):
    """A sparse stand-in for an MLP.

        post = act(x @ W_enc + b_enc)
        y    = post @ W_dec + b_dec (+ x @ W_skip)

    Weights act on the right, as in TransformerLens:
    `W_enc [d_in feature]`, `W_dec [feature d_out]`, `W_skip [d_in d_out]`. `W_enc` is stored feature by
    feature (its memory is that of a `[feature d_in]` tensor), so that one feature's encoder is one
    contiguous read.

    **Raises:** ShapeError where a weight does not fit the config; ConfigError where a skip or threshold
    is given and not declared, or declared and not given, and for weights of different dtypes.

    Source: Dunefsky et al. 2024, Transcoders Find Interpretable LLM Feature Circuits; with W_skip,
    Paulo et al. 2025, Transcoders Beat Sparse Autoencoders for Interpretability.

    ```python
    cfg = TranscoderConfig(layer=0, d_in=5, d_out=5, n_features=11, activation=TopK(2))
    transcoder = Transcoder.init(cfg, seed=0)
    y = transcoder(torch.randn(3, 7, 5))
    ```
    """

    def __init__(
        self,
        cfg: TranscoderConfig,
        *,
        W_enc: Float[Tensor, "d_in feature"],
        b_enc: Float[Tensor, " feature"],
        W_dec: Float[Tensor, "feature d_out"],
        b_dec: Float[Tensor, " d_out"],
        W_skip: Float[Tensor, "d_in d_out"] | None = None,
        threshold: Float[Tensor, " feature"] | None = None,
    ) -> None:
        super().__init__()
        where = f"transcoder of layer {cfg.layer}"
        check_shape(where, "W_enc", W_enc, d_in=cfg.d_in, feature=cfg.n_features)
        check_shape(where, "b_enc", b_enc, feature=cfg.n_features)
        check_shape(where, "W_dec", W_dec, feature=cfg.n_features, d_out=cfg.d_out)
        check_shape(where, "b_dec", b_dec, d_out=cfg.d_out)
        check_presence(where, "W_skip", W_skip is not None, cfg.skip)
        check_presence(where, "threshold", threshold is not None, needs_threshold(cfg.activation))
        given = (W_enc, b_enc, W_dec, b_dec, W_skip, threshold)
        check_one_dtype(where, [weight.dtype for weight in given if weight is not None])
        self.cfg = cfg
        self.W_enc = nn.Parameter(W_enc.T.contiguous().T)
        self.b_enc = nn.Parameter(b_enc)
        self.W_dec = nn.Parameter(W_dec)
        self.b_dec = nn.Parameter(b_dec)
        if W_skip is not None:
            check_shape(where, "W_skip", W_skip, d_in=cfg.d_in, d_out=cfg.d_out)
        if threshold is not None:
            check_shape(where, "threshold", threshold, feature=cfg.n_features)
        self.W_skip = None if W_skip is None else nn.Parameter(W_skip)
        self.threshold = None if threshold is None else nn.Parameter(threshold)

    @classmethod
    def init(cls, cfg: TranscoderConfig, *, seed: int, dtype: torch.dtype = torch.float32) -> Self:
        """Random encoder of unit-norm rows in expectation, decoder its transpose where shapes allow, zero biases and skip."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(cfg.n_features, cfg.d_in, generator=generator) / cfg.d_in**0.5
        out = (
            rows
            if cfg.d_in == cfg.d_out
            else torch.randn(cfg.n_features, cfg.d_out, generator=generator) / cfg.d_out**0.5
        )
        return cls(
            cfg,
            W_enc=rows.T.to(dtype),
            b_enc=torch.zeros(cfg.n_features, dtype=dtype),
            W_dec=out.clone().to(dtype),
            b_dec=torch.zeros(cfg.d_out, dtype=dtype),
            W_skip=torch.zeros(cfg.d_in, cfg.d_out, dtype=dtype) if cfg.skip else None,
            threshold=torch.zeros(cfg.n_features, dtype=dtype)
            if needs_threshold(cfg.activation)
            else None,
        )

    def pre_activations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch feature"]:
        """x @ W_enc + b_enc."""
        ranked = isinstance(self.cfg.activation, TopK)
        return pre_activations(x, self.W_enc, self.b_enc, ranked=ranked)

    def activate(self, pre: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """act(pre)."""
        return activate(self.cfg.activation, pre, self.threshold)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch feature"]:
        """Dense feature activations."""
        return self.activate(self.pre_activations(x))

    def encode_sparse(self, x: Float[Tensor, "*batch d_in"]) -> SparseFeatures:
        """The same activations as values and indices; for TopK the backward pass touches active features only."""
        if isinstance(self.cfg.activation, TopK):
            return encode_topk(x, self.W_enc, self.b_enc, self.cfg.activation.k)[0]
        return SparseFeatures.from_dense(self.encode(x))

    def decode(
        self,
        features: Float[Tensor, "*batch feature"] | SparseFeatures,
        x: Float[Tensor, "*batch d_in"] | None = None,
    ) -> Float[Tensor, "*batch d_out"]:
        """features @ W_dec + b_dec (+ x @ W_skip); a skip transcoder needs its input `x` and raises ConfigError without."""
        if isinstance(features, SparseFeatures):
            y = features.matmul(self.W_dec) + self.b_dec
        else:
            y = einsum(features, self.W_dec, "... feature, feature d_out -> ... d_out") + self.b_dec
        if self.W_skip is None:
            return y
        if x is None:
            raise ConfigError(
                f"decode of layer {self.cfg.layer}",
                got="no input x",
                expected="the input, because this transcoder has a skip connection",
                do="Call decode(features, x).",
            )
        return y + einsum(x, self.W_skip, "... d_in, d_in d_out -> ... d_out")

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """decode(encode(x), x), by whichever route the measured density makes faster."""
        return self.decode(self.features(x), x)

    def features(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch feature"] | SparseFeatures:
        """Activations in the form that decodes fastest."""
        if isinstance(self.cfg.activation, TopK):
            return self.encode_sparse(x)
        return gather_if_sparse(self.encode(x))

    def features_and_dense(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Float[Tensor, "*batch feature"] | SparseFeatures, Float[Tensor, "*batch feature"]]:
        """`features(x)` and the dense activations, for one encoder pass."""
        if isinstance(self.cfg.activation, TopK):
            return encode_topk(x, self.W_enc, self.b_enc, self.cfg.activation.k, want_dense=True)
        post = self.encode(x)
        return gather_if_sparse(post), post

    def extra_repr(self) -> str:
        """One line for `print(model)`."""
        c = self.cfg
        world = " (processed)" if c.folded else ""
        return f"layer={c.layer}, {c.read}→{c.write}{world}, {c.d_in}→{c.n_features}→{c.d_out}, {c.activation}, skip={c.skip}"


def check_shape(where: str, name: str, tensor: Tensor, **dims: int) -> None:
    """Raise ShapeError unless `tensor` has the named dimensions."""
    expected = tuple(dims.values())
    if not tensor.is_floating_point():
        raise ShapeError(
            f"{where}, {name}", got=str(tensor.dtype), expected="a floating dtype", do="Cast it."
        )
    if tuple(tensor.shape) == expected:
        return
    named = ", ".join(f"{dim}={size}" for dim, size in dims.items())
    transposed = tuple(tensor.shape) == expected[::-1]
    raise ShapeError(
        f"{where}, {name}",
        got=f"shape {tuple(tensor.shape)}",
        expected=f"({named})",
        do="It looks transposed: pass its transpose." if transposed else "Check the config.",
    )


def check_one_dtype(where: str, dtypes: Iterable[torch.dtype]) -> None:
    """Raise ConfigError unless all dtypes are the same."""
    found = sorted({str(dtype) for dtype in dtypes})
    if len(found) > 1:
        raise ConfigError(
            where,
            got=f"weights of {' and '.join(found)}",
            expected="one dtype",
            do="Cast them to one: load(..., dtype=torch.float32), or transcoder.to(torch.float32).",
        )


def check_presence(where: str, name: str, given: bool, declared: bool) -> None:
    """Raise ConfigError unless an optional weight is given exactly where the config declares it."""
    if given == declared:
        return
    raise ConfigError(
        f"{where}, {name}",
        got="a tensor" if given else "none",
        expected="a tensor, as the config declares" if declared else "none, by the config",
        do=f"Make the config and the weights agree about {name}.",
    )
