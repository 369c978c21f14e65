"""The module that stands where an MLP stood."""

from collections.abc import Callable
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Any, Self, SupportsIndex, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tl_transcoders.errors import ConfigError, SpliceError
from tl_transcoders.hosts import HookPoint, is_hooked, tensor_version
from tl_transcoders.hub import load
from tl_transcoders.splice.coder import Coder, Features, OwnLayer, Reconstruction
from tl_transcoders.splice.error_term import ErrorTerm, as_leaf
from tl_transcoders.transcoders import CrossLayerTranscoder, SparseFeatures, Transcoder

Excluded = Callable[[torch.Size], Tensor | None]

_NUMBERS = count()


class Mode(Enum):
    """What a spliced layer computes: its transcoder, the original MLP, or zero."""

    TRANSCODER = "transcoder"
    ORIGINAL = "original"
    ABLATED = "ablated"


@final
class HookedTranscoder(nn.Module):
    """A transcoder with the hook points of an MLP.

        post  = hook_post(act(hook_pre(hook_in(x) @ W_enc + b_enc)))
        y     = hook_out(post @ W_dec + b_dec (+ x @ W_skip) + hook_error(error))

    `hook_pre` and `hook_post` carry features `[batch pos feature]`. `hook_error` carries what the splice
    adds to the reconstruction: zeros under error="drop", mlp(x) − transcoder(x) without the edits of
    hooks under "keep", the base run's under "freeze". Where nothing watches `hook_pre` and `hook_post`,
    features stay sparse and the same numbers are computed faster.

    Gradients flow to x through the features and the skip, never through the error, which is a leaf.
    Features are computed in the transcoder's dtype, under autocast too.
    At excluded positions features and error are zero, and the output (and its gradient) is the original MLP's.

    ```python
    cfg = TranscoderConfig(layer=0, d_in=5, d_out=5, n_features=11)
    hooked = HookedTranscoder(Transcoder.init(cfg, seed=0))
    hooked.hook_post.add_hook(lambda features, hook: print(features.shape))
    y = hooked(torch.randn(3, 7, 5))
    ```
    """

    def __init__(
        self,
        transcoder: Transcoder | CrossLayerTranscoder,
        *,
        coder: Coder | None = None,
        original: nn.Module | None = None,
        read: Callable[[], Tensor] | None = None,
        error: ErrorTerm | None = None,
        excluded: Excluded | None = None,
        hook_in: HookPoint | None = None,
        hook_out: HookPoint | None = None,
    ) -> None:
        super().__init__()
        self.transcoder = transcoder
        self.original = original
        self.hook_in = HookPoint() if hook_in is None else hook_in
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()
        self.hook_error = HookPoint()
        self.hook_out = HookPoint() if hook_out is None else hook_out
        self.mode = Mode.TRANSCODER
        self.calls = 0
        self.unsplice: Callable[[], None] | None = None
        self.number = next(_NUMBERS)
        self.error = ErrorTerm("drop", "HookedTranscoder") if error is None else error
        self._coder = _coder_of(transcoder) if coder is None else coder
        self._read, self._excluded = read, excluded

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        layer: int,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """The transcoder of one layer of a folder or hub repository; arguments and errors as of `tl_transcoders.load`."""
        loaded = load(source, layers=[layer], revision=revision, dtype=dtype, device=device)
        if isinstance(loaded, CrossLayerTranscoder):
            raise ConfigError(
                str(source),
                got="a cross-layer transcoder",
                expected="one that stands for a single layer",
                do="Use tl_transcoders.load and tl_transcoders.splice, which place it as a whole.",
            )
        return cls(loaded[layer])

    def forward(self, mlp_in: Float[Tensor, "batch pos d_in"]) -> Float[Tensor, "batch pos d_out"]:
        """What the MLP module would return; `mlp_in` is what it would receive."""
        self.calls += 1
        x = self.hook_in(mlp_in if self._read is None else self._read())
        to_original = x if self._read is None else mlp_in
        match self.mode:
            case Mode.ABLATED:
                return self.hook_out(torch.zeros_like(mlp_in))
            case Mode.ORIGINAL:
                return self.hook_out(self._run_original(to_original))
            case Mode.TRANSCODER:
                return self.hook_out(self._transcode(x, to_original))

    def _transcode(self, x: Tensor, to_original: Tensor) -> Tensor:
        mask = None if self._excluded is None else self._excluded(x.shape[:2])
        # Autocast would mix its dtype with the transcoder's; the original MLP is left to it.
        with torch.autocast(x.device.type, enabled=False):
            x_cast = x.to(self.dtype)
            features, unedited = self._features(x_cast, mask)
            both = self._coder.reconstruct(features, unedited, x_cast)
        original = None
        if self.error.needs_original:
            with torch.no_grad():
                original = self._run_original(to_original)
        y = self._with_error(both, original, mask).to(to_original.dtype)
        if mask is None:
            return y
        return self._restore_excluded(y, to_original, original, mask)

    def _features(self, x: Tensor, mask: Tensor | None) -> tuple[Features, Features]:
        """Features after and before the hooks.

        The same object twice where no hook changed them, or where they are dense and no error is computed.
        """
        if is_hooked(self.hook_pre):
            return self._features_through_pre(x, mask)
        if not is_hooked(self.hook_post):
            features = _without(self._coder.features(x), mask)
            return features, features
        features, dense = self._coder.features_and_dense(x)
        features, dense = _without(features, mask), _without_dense(dense, mask)
        if isinstance(features, Tensor):
            before = dense.detach().clone() if self.error.needs_original else None
            return _after_and_before(self.hook_post(dense), before)
        version = tensor_version(dense)
        post = self.hook_post(dense)
        written = tensor_version(dense) != version or not features.equal(dense)
        if post is not dense or written:
            return post, features
        # Under autograd a hook's holder may ask for gradients to any feature, so decode what it holds.
        watched = post if post.requires_grad else features
        return watched, watched

    def _features_through_pre(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        pre, before = self._coder.pre_activations(x), None
        if self.error.needs_original:
            with torch.no_grad():
                before = _without_dense(self._coder.activate(pre), mask)
        dense = _without_dense(self._coder.activate(self.hook_pre(pre)), mask)
        return _after_and_before(self.hook_post(dense), before)

    def _with_error(
        self, both: Reconstruction, original: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        wide = None if original is None else original.to(both.unedited.dtype)
        error = self.error.value(wide, both.unedited)
        watched = is_hooked(self.hook_error)
        if error is None and not watched:
            return both.edited
        error = torch.zeros_like(both.edited).detach() if error is None else error
        error = _without_dense(error, mask)
        return both.edited + self.hook_error(as_leaf(error) if watched else error)

    def _restore_excluded(
        self,
        y: Tensor,
        to_original: Tensor,
        original: Tensor | None,
        mask: Bool[Tensor, "batch pos"],
    ) -> Tensor:
        if original is not None and not torch.is_grad_enabled():
            return torch.where(mask[..., None], original, y)
        columns = mask.any(0)
        original = self._run_original(to_original[:, columns])
        chosen = torch.where(mask[:, columns, None], original, y[:, columns])
        return y.index_copy(1, columns.nonzero().squeeze(-1), chosen)

    def _run_original(self, mlp_in: Tensor) -> Tensor:
        if self.original is None:
            raise ConfigError(
                "HookedTranscoder",
                got="no original MLP",
                expected="the MLP it stands for",
                do="Splice it into a model with tl_transcoders.splice.",
            )
        return self.original(mlp_in)

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        if self.original is None:
            return super().__reduce_ex__(protocol)
        raise SpliceError(
            "copy or pickle",
            got="a model with transcoders in it",
            expected="a model without, because no splice could take them out of the copy",
            do="Copy the model before it is spliced, or after spliced.remove().",
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype features are computed in."""
        return next(self.transcoder.parameters()).dtype


def _coder_of(transcoder: Transcoder | CrossLayerTranscoder) -> Coder:
    if isinstance(transcoder, Transcoder):
        return OwnLayer(transcoder)
    raise ConfigError(
        "HookedTranscoder",
        got="a cross-layer transcoder",
        expected="one that stands for a single layer",
        do="Splice it as a whole with tl_transcoders.splice.",
    )


def _after_and_before(post: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
    """Dense features after and before the hooks; `before` is None where nothing asks for it.

    Compared by content: torch does not count what is written through `.data`.
    """
    if before is None or torch.equal(post, before):
        return post, post
    return post, before


def _without(features: Features, mask: Tensor | None) -> Features:
    if mask is None or isinstance(features, Tensor):
        return _without_dense(features, mask) if isinstance(features, Tensor) else features
    kept = ~mask.reshape(-1)[features.rows()]
    return SparseFeatures(
        features.values * kept, features.indices, features.offsets, features.shape
    )


def _without_dense(dense: Tensor, mask: Tensor | None) -> Tensor:
    return dense if mask is None else dense.masked_fill(mask[..., None], 0)
