"""Cross-layer transcoders: one encoder per layer, decoders to that layer and every later one."""

from collections.abc import Mapping
from typing import Self, final

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from tl_transcoders.errors import ConfigError
from tl_transcoders.transcoders.activations import TopK, activate, needs_threshold
from tl_transcoders.transcoders.config import CrossLayerConfig
from tl_transcoders.transcoders.encode import encode_topk, gather_if_sparse, pre_activations
from tl_transcoders.transcoders.origin import Origin
from tl_transcoders.transcoders.sparse import SparseFeatures
from tl_transcoders.transcoders.transcoder import check_one_dtype, check_presence, check_shape

Features = Float[Tensor, "*batch feature"] | SparseFeatures


@final
class CrossLayerTranscoder(nn.Module):
    """All MLPs of a model replaced together.

        post[i] = act(x[i] @ W_enc[i] + b_enc[i])
        y[j]    = Σ_{i ≤ j} post[i] @ W_dec[i][j − i] + b_dec[j] (+ x[j] @ W_skip[j])

    The lists run over `cfg.layers` (i and j count positions in it, not layer numbers):
    `W_enc[i] [d_in feature]`, `W_dec[i] [target feature d_out]` with one target for every layer from i on.

    **Raises:** ShapeError and ConfigError where weights and config disagree.

    Source: Ameisen et al. 2025, Circuit Tracing, section 2.

    ```python
    cfg = CrossLayerConfig(layers=(0, 1, 2), d_in=5, d_out=5, n_features=11)
    y = CrossLayerTranscoder.init(cfg, seed=0)({layer: torch.randn(3, 7, 5) for layer in cfg.layers})
    ```
    """

    def __init__(
        self,
        cfg: CrossLayerConfig,
        *,
        W_enc: list[Tensor],
        b_enc: list[Tensor],
        W_dec: list[Tensor],
        b_dec: list[Tensor],
        W_skip: list[Tensor] | None = None,
        threshold: list[Tensor] | None = None,
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.origin = Origin() if origin is None else origin
        check_presence("cross-layer transcoder", "W_skip", W_skip is not None, cfg.skip)
        needed = needs_threshold(cfg.activation)
        check_presence("cross-layer transcoder", "threshold", threshold is not None, needed)
        sizes = {"feature": cfg.n_features}
        _check_each(cfg, "W_enc", W_enc, d_in=cfg.d_in, **sizes)
        _check_each(cfg, "b_enc", b_enc, **sizes)
        _check_each(cfg, "b_dec", b_dec, d_out=cfg.d_out)
        _check_decoders(cfg, W_dec)
        self.W_enc = nn.ParameterList([w.T.contiguous().T for w in W_enc])
        self.b_enc = nn.ParameterList(b_enc)
        self.W_dec = nn.ParameterList(W_dec)
        self.b_dec = nn.ParameterList(b_dec)
        if W_skip is not None:
            _check_each(cfg, "W_skip", W_skip, d_in=cfg.d_in, d_out=cfg.d_out)
        if threshold is not None:
            _check_each(cfg, "threshold", threshold, **sizes)
        self.W_skip = None if W_skip is None else nn.ParameterList(W_skip)
        self.threshold = None if threshold is None else nn.ParameterList(threshold)
        check_one_dtype("cross-layer transcoder", [weight.dtype for weight in self.parameters()])

    @classmethod
    def init(cls, cfg: CrossLayerConfig, *, seed: int) -> Self:
        """Random encoders of unit-norm rows and decoders of norm 1/√targets in expectation, zero biases and skips."""
        generator = torch.Generator().manual_seed(seed)
        n = len(cfg.layers)

        def normal(*shape: int, scale: float) -> Tensor:
            return torch.randn(*shape, generator=generator) * scale

        return cls(
            cfg,
            W_enc=[normal(cfg.n_features, cfg.d_in, scale=cfg.d_in**-0.5).T for _ in range(n)],
            b_enc=[torch.zeros(cfg.n_features) for _ in range(n)],
            W_dec=[
                normal(n - i, cfg.n_features, cfg.d_out, scale=(cfg.d_out * (n - i)) ** -0.5)
                for i in range(n)
            ],
            b_dec=[torch.zeros(cfg.d_out) for _ in range(n)],
            W_skip=[torch.zeros(cfg.d_in, cfg.d_out) for _ in range(n)] if cfg.skip else None,
            threshold=[torch.zeros(cfg.n_features) for _ in range(n)]
            if needs_threshold(cfg.activation)
            else None,
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it reads and writes, ascending."""
        return self.cfg.layers

    def pre_activations(
        self, layer: int, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch feature"]:
        """x @ W_enc + b_enc of one layer."""
        i = self._position(layer)
        ranked = isinstance(self.cfg.activation, TopK)
        return pre_activations(x, self.W_enc[i], self.b_enc[i], ranked=ranked)

    def activate(
        self, layer: int, pre: Float[Tensor, "*batch feature"]
    ) -> Float[Tensor, "*batch feature"]:
        """act(pre) with that layer's threshold."""
        threshold = None if self.threshold is None else self.threshold[self._position(layer)]
        return activate(self.cfg.activation, pre, threshold)

    def encode(
        self, layer: int, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch feature"]:
        """Dense feature activations of one layer."""
        return self.activate(layer, self.pre_activations(layer, x))

    def features(self, layer: int, x: Float[Tensor, "*batch d_in"]) -> Features:
        """Activations of one layer in the form that decodes fastest."""
        if isinstance(self.cfg.activation, TopK):
            i = self._position(layer)
            return encode_topk(x, self.W_enc[i], self.b_enc[i], self.cfg.activation.k)[0]
        return gather_if_sparse(self.encode(layer, x))

    def features_and_dense(
        self, layer: int, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Features, Float[Tensor, "*batch feature"]]:
        """`features(layer, x)` and the dense activations, for one encoder pass."""
        if isinstance(self.cfg.activation, TopK):
            i, k = self._position(layer), self.cfg.activation.k
            return encode_topk(x, self.W_enc[i], self.b_enc[i], k, want_dense=True)
        post = self.encode(layer, x)
        return gather_if_sparse(post), post

    def decode(
        self,
        layer: int,
        features: Mapping[int, Features],
        x: Float[Tensor, "*batch d_in"] | None = None,
    ) -> Float[Tensor, "*batch d_out"]:
        """y of one layer from the features of every layer up to it; raises ConfigError where one is missing."""
        j = self._position(layer)
        y = self.b_dec[j]
        for i, source in enumerate(self.layers[: j + 1]):
            if source not in features:
                raise ConfigError(
                    f"decode of layer {layer}",
                    got=f"features of layers {sorted(features)}",
                    expected=f"those of every layer of {self.layers[: j + 1]}",
                    do="Run the forward pass from the first spliced layer (no start_at_layer), without gradient checkpointing.",
                )
            y = y + _decode(features[source], self.W_dec[i][j - i])
        if self.W_skip is None:
            return y
        if x is None:
            raise ConfigError(
                f"decode of layer {layer}",
                got="no input x",
                expected="that layer's input, because this transcoder has skip connections",
                do="Call decode(layer, features, x).",
            )
        return y + einsum(x, self.W_skip[j], "... d_in, d_in d_out -> ... d_out")

    def forward(
        self, x: Mapping[int, Float[Tensor, "*batch d_in"]]
    ) -> dict[int, Float[Tensor, "*batch d_out"]]:
        """Every layer's output from every layer's input."""
        features = {layer: self.features(layer, x[layer]) for layer in self.layers}
        return {layer: self.decode(layer, features, x[layer]) for layer in self.layers}

    def __repr__(self) -> str:
        c = self.cfg
        world = " (processed)" if c.folded else ""
        sizes = f"{c.read}→{c.write}{world}, {c.d_in}→{c.n_features}→{c.d_out}, {c.activation}, skip={c.skip}"
        lines = (
            f"  {layer}: {sizes}, decodes to {', '.join(map(str, c.layers[i:]))}"
            for i, layer in enumerate(c.layers)
        )
        return "\n".join([f"CrossLayerTranscoder({self.origin}", *lines, ")"])

    def _position(self, layer: int) -> int:
        if layer in self.layers:
            return self.layers.index(layer)
        raise ConfigError(
            "cross-layer transcoder",
            got=f"layer {layer}",
            expected=f"one of {self.layers}",
            do="Choose a layer it was trained on.",
        )


def _decode(features: Features, W_dec: Tensor) -> Tensor:
    if isinstance(features, SparseFeatures):
        return features.matmul(W_dec)
    return einsum(features, W_dec, "... feature, feature d_out -> ... d_out")


def _check_each(cfg: CrossLayerConfig, name: str, tensors: list[Tensor], **dims: int) -> None:
    _check_length(cfg, name, tensors)
    for layer, tensor in zip(cfg.layers, tensors, strict=True):
        check_shape(f"cross-layer transcoder, layer {layer}", name, tensor, **dims)


def _check_decoders(cfg: CrossLayerConfig, tensors: list[Tensor]) -> None:
    _check_length(cfg, "W_dec", tensors)
    for i, tensor in enumerate(tensors):
        dims = {"target": len(cfg.layers) - i, "feature": cfg.n_features, "d_out": cfg.d_out}
        check_shape(f"cross-layer transcoder, layer {cfg.layers[i]}", "W_dec", tensor, **dims)


def _check_length(cfg: CrossLayerConfig, name: str, tensors: list[Tensor]) -> None:
    if len(tensors) != len(cfg.layers):
        raise ConfigError(
            f"cross-layer transcoder, {name}",
            got=f"{len(tensors)} tensors",
            expected=f"one for each of {len(cfg.layers)} layers",
            do="Give every layer its weights.",
        )
