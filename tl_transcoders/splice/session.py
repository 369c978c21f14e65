"""Installing transcoders in a model, and taking them out again."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from tl_transcoders._types import ErrorPolicy
from tl_transcoders.errors import ConfigError, SpliceError, UnknownLayerError
from tl_transcoders.hosts import AbstractHost, Silence, all_hook_points, check_tokens, resolve_host
from tl_transcoders.splice.checks import (
    Swappable,
    as_set,
    check_base,
    check_fits,
    check_policy,
    claim,
    release,
)
from tl_transcoders.splice.error_term import ErrorTerm
from tl_transcoders.splice.fit import fit
from tl_transcoders.splice.forward_state import Exclude, exclude_to_tensor
from tl_transcoders.splice.hooked_transcoder import HookedTranscoder, Mode
from tl_transcoders.splice.install import Installation, install
from tl_transcoders.splice.norms import Norms
from tl_transcoders.splice.sample import sample_tokens
from tl_transcoders.splice.tap_check import measure_taps
from tl_transcoders.transcoders import CrossLayerTranscoder, TranscoderSet


@final
class Spliced:
    """A model whose MLPs are, for now, transcoders; made by `tl_transcoders.splice`.

    `model` is the user's own object, `layers` the spliced layers, `hooked[layer]` the module that stands there.
    """

    def __init__(
        self,
        host: AbstractHost,
        transcoders: TranscoderSet | CrossLayerTranscoder,
        installation: Installation,
        undo: ExitStack,
        *,
        policy: ErrorPolicy,
    ) -> None:
        self.host, self.transcoders = host, transcoders
        self.model: Any = host.model
        self.hooked = installation.hooked
        self._installation, self._state, self._undo = installation, installation.state, undo
        self._policy: ErrorPolicy = policy
        self._removed = False
        for hooked in self.hooked.values():
            hooked.unsplice = self.remove

    @property
    def policy(self) -> ErrorPolicy:
        """What becomes of the error mlp(x) − transcoder(x)."""
        return self._policy

    @property
    def layers(self) -> tuple[int, ...]:
        """The spliced layers, ascending."""
        return tuple(sorted(self.hooked))

    @property
    def torch_hooks(self) -> set[int]:
        """Ids of the torch hooks through which the host calls what was spliced."""
        return self._installation.torch_hooks

    @property
    def holds_prompts(self) -> bool:
        """Whether it holds something that belongs to the prompts of one batch: a mask, or frozen errors."""
        stored = [hooked.error.stored for hooked in self.hooked.values()]
        return self._state.masks or any(error is not None and len(error) > 1 for error in stored)

    def excluded(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"] | None:
        """The positions of a run on `tokens` that are left to the original MLP; None for none."""
        return self._state.excluded_in(tokens)

    def remove(self) -> None:
        """Put the original modules back; a second call does nothing."""
        self._removed = True
        self._undo.close()

    def check_installed(self) -> None:
        """Raise SpliceError where the transcoders are out of the model again."""
        if self._removed:
            raise SpliceError(
                repr(self),
                got="a splice that is already removed",
                expected="one whose transcoders are in the model",
                do="Call tl_transcoders.splice again.",
            )

    def freeze(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """Store mlp(x) − transcoder(x) of a base run on `tokens`; for splices with error="freeze" only."""
        self.check_installed()
        check_base(self.policy)
        check_tokens(self.host, tokens, "freeze")
        for hooked in self.hooked.values():
            hooked.error.recording = True
        try:
            self.host.run(tokens)
        finally:
            for hooked in self.hooked.values():
                hooked.error.recording = False

    @contextmanager
    def running(self, mode: Mode, layers: tuple[int, ...] | None = None) -> Iterator[Self]:
        """Let these layers (all by default) compute the original MLP or zero for a while, without taking anything out."""
        self.check_installed()
        chosen = [self._hooked_at(layer) for layer in (self.layers if layers is None else layers)]
        if not isinstance(mode, Mode):
            raise ConfigError(
                "running",
                got=repr(mode),
                expected=f"one of {', '.join(map(str, Mode))}",
                do="Take it from tl_transcoders.splice.Mode.",
            )
        before = [hooked.mode for hooked in chosen]
        for hooked in chosen:
            hooked.mode = mode
        try:
            yield self
        finally:
            for hooked, previous in zip(chosen, before, strict=True):
                hooked.mode = previous

    @contextmanager
    def keeping_error(self) -> Iterator[Self]:
        """Let every layer keep its error for a while, whatever the policy of the splice."""
        self.check_installed()
        before = {layer: hooked.error for layer, hooked in self.hooked.items()}
        for layer, hooked in self.hooked.items():
            hooked.error = ErrorTerm("keep", f"blocks.{layer}")
        try:
            yield self
        finally:
            for layer, hooked in self.hooked.items():
                hooked.error = before[layer]

    def _hooked_at(self, layer: int) -> HookedTranscoder:
        if layer in self.hooked:
            return self.hooked[layer]
        raise UnknownLayerError(
            repr(self),
            got=f"layer {layer!r}",
            expected=f"one of {list(self.layers)}",
            do="Choose a spliced layer.",
        )

    @contextmanager
    def running_rows(self, rows: slice) -> Iterator[Self]:
        """While a few of the prompts are run for which `exclude` is a mask, or whose errors are frozen."""
        errors = [hooked.error for hooked in self.hooked.values()]
        for some in (self._state, *errors):
            some.rows = rows
        try:
            yield self
        finally:
            for some in (self._state, *errors):
                some.rows = slice(None)

    def check_mask(self, shape: torch.Size) -> None:
        """Raise ShapeError where `exclude` is a mask of another shape than that of all prompts."""
        self._state.check_mask(shape)

    def included(self, like: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """The positions of the running forward pass that are not left to the original MLP."""
        excluded = self._state.excluded(like.shape)
        return torch.ones_like(like) if excluded is None else ~excluded

    def __enter__(self) -> Self:
        self.check_installed()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        removed = ", removed" if self._removed else ""
        return f"Spliced({type(self.model).__name__}, layers={list(self.layers)}{removed})"


def splice(
    model: nn.Module,
    transcoders: Swappable,
    *,
    error: ErrorPolicy = "drop",
    exclude: Exclude | None = None,
    base: Int[Tensor, "batch pos"] | None = None,
    norms: Norms | None = None,
    check: bool | Int[Tensor, "batch pos"] = False,
) -> Spliced:
    """Let transcoders stand where the model's MLPs stood, and SAEs where their sites are.

        mlp_out[L] = transcoder[L](x) + error[L]

    The model stays the object it was: `blocks.L.mlp.hook_pre` and `blocks.L.mlp.hook_post` now carry
    features, `blocks.L.hook_mlp_out` still fires, and every TransformerLens method works on them.
    An SAE at, say, `resid_post` adds `blocks.L.hook_resid_post.sae.hook_post`.

    **Arguments:**

    - `model`: a HookedTransformer or TransformerBridge.
    - `transcoders`: a set, one transcoder, or a cross-layer transcoder.
    - `error`: what happens to mlp(x) − transcoder(x). `"drop"`: nothing, the transcoders alone compute.
      `"keep"`: it is added, without gradient and before any edit of features, so that untouched logits
      are the original model's and edits still propagate. `"freeze"`: as it was in a base run, given as
      `base` or later by `spliced.freeze(tokens)`.
    - `exclude`: positions left to the original MLP: `"special"` tokens, token ids, or a mask `[batch pos]`.
    - `norms`: `norms_of(model)` from before a model was processed. Transcoders trained on a raw model are
      folded to fit a processed one, and the reverse (`spliced.transcoders` are the fitted ones, frozen); from
      raw to processed that takes the gains of the norms, which processing removes.
    - `check`: whether to first measure, on these tokens (True: a few sentences), that the transcoders explain
      the MLPs at the tap their configs state, and raise SpliceError otherwise; see `tl_transcoders.check`.

    **Returns:** a `Spliced`: use it as a context manager, or call `remove()`. Either restores the model
    bitwise, and leaves the user's hooks as they are. Hooks inside a replaced MLP sleep meanwhile.

    **Raises:** ShapeError, ConfigError or SpliceError, with the model untouched, where something does not
    fit; HookNeverFiredError where a transcoder would not be called.

    ```python
    with tlt.splice(model, transcoders) as spliced:
        logits, cache = model.run_with_cache(prompt)
    cache["blocks.2.mlp.hook_post"]
    ```
    """
    host = resolve_host(model)
    transcoders = as_set(transcoders)
    check_policy(error)
    if base is not None:
        check_base(error)
        check_tokens(host, base, "base")
    if not isinstance(check, bool):
        check_tokens(host, check, "check")
    excluded = exclude_to_tensor(exclude, host.tokenizer, host.d_vocab)
    places = check_fits(host, transcoders)
    fitted = fit(transcoders, host, norms)
    with ExitStack() as stack:
        claim(model, places)
        stack.callback(release, model, places)
        if check is not False:
            sample = sample_tokens(host) if check is True else check
            measure_taps(host, transcoders, sample, norms=norms).raise_if_wrong()
        installation = install(host, fitted, error, excluded, stack)
        _prove_called(host, installation)
        spliced = Spliced(host, fitted, installation, stack.pop_all(), policy=error)
    if base is not None:
        _or_remove(spliced, lambda: spliced.freeze(base))
    return spliced


def unsplice(model: nn.Module) -> None:
    """Remove every splice from a model, the last one first, also where its handle is lost; none is no error.

    ```python
    tlt.splice(model, transcoders)  # in a notebook, with the result thrown away
    tlt.unsplice(model)
    ```
    """
    host = resolve_host(model)
    hooked = [module for module in host.model.modules() if isinstance(module, HookedTranscoder)]
    for module in sorted(hooked, key=lambda module: module.number, reverse=True):
        if module.unsplice is not None:
            module.unsplice()


def _prove_called(host: AbstractHost, installation: Installation) -> None:
    """Run two tokens through the model with the user's hooks silent, and see that every transcoder was called."""
    hooked, state = installation.hooked, installation.state
    before = {layer: module.calls for layer, module in hooked.items()}
    tokens = torch.tensor([[1, 0]])
    state.paused = True
    for module in hooked.values():
        module.error.paused = True
    try:
        with (
            Silence(list(all_hook_points(host.model)), keep=installation.torch_hooks),
            torch.random.fork_rng(devices=[host.device] if host.device.type == "cuda" else []),
        ):
            host.run(tokens)
    finally:
        state.paused = False
        for module in hooked.values():
            module.error.paused = False
    idle = [layer for layer, module in hooked.items() if module.calls == before[layer]]
    if idle:
        raise SpliceError(
            f"layers {idle}",
            got="a forward pass that did not call the transcoders",
            expected="every spliced layer to be called once",
            do="This model runs its MLPs in a way the splice does not reach: please report the architecture.",
        )


def _or_remove(spliced: Spliced, action: Callable[[], None]) -> None:
    try:
        action()
    except BaseException:
        spliced.remove()
        raise
