"""What a splice, a trainer or an evaluation needs of a model, whichever TransformerLens class it is."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from tl_transcoders._types import Site
from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts.anatomy import Rotary
from tl_transcoders.hosts.norm_weights import NormWeights
from tl_transcoders.hosts.recording import Recording
from tl_transcoders.hosts.registry import Undo
from tl_transcoders.hosts.sites import HOOK_NAMES, site_name

MEAN_TOLERANCE = 1e-4
"""Largest mean of an embedding, relative to the largest weight, that counts as zero."""


class AbstractHost(ABC):
    """A model, seen through the words of this package.

    Facts (`n_layers`, `folded`, ...), the modules of a block, its hook points by site, and the two things
    that are done to it: putting a module in another's place, and running it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    # facts

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.model.cfg.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.model.cfg.d_model

    @property
    def d_vocab(self) -> int:
        """Number of tokens."""
        return self.model.cfg.d_vocab

    @property
    def n_ctx(self) -> int:
        """How many positions the model is made for."""
        return self.model.cfg.n_ctx

    @property
    def model_name(self) -> str | None:
        """The name the model was loaded under; of a folder its own name only, because its path says where, not what."""
        name: str | None = getattr(self.model.cfg, "model_name", None)
        if name is None or not (Path(name).is_absolute() or Path(name).exists()):
            return name
        return Path(name).resolve().name

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, or None."""
        return getattr(self.model, "tokenizer", None)

    @property
    def device(self) -> torch.device:
        """Where the embedding lives."""
        return self._first_parameter().device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self._first_parameter().dtype

    @property
    @abstractmethod
    def folded(self) -> bool:
        """Whether the gains of the norms were folded into the weights that follow them."""

    @property
    @abstractmethod
    def centred(self) -> bool:
        """Whether the norms subtract the mean (LayerNorm), so that processing may centre what is written."""

    @property
    def mean_free(self) -> bool:
        """Whether processing took the mean over `d_model` out of what is written to the residual stream."""
        if not self.centred:
            return False
        W_E = self.model.W_E
        return bool(W_E.mean(-1).abs().max() <= MEAN_TOLERANCE * W_E.abs().max())

    def site_width(self, site: Site, layer: int) -> int:
        """Size of the last dimension at a site (for `z`, of all heads together)."""
        self.check_layer(layer)
        if site == "z":
            return self.model.cfg.n_heads * self.model.cfg.d_head
        return self.d_model

    # modules

    @abstractmethod
    def modules(self) -> Iterator[nn.Module]:
        """Every module that a forward pass may run."""

    def block(self, layer: int) -> nn.Module:
        """The block of a layer."""
        self.check_layer(layer)
        return self.model.blocks[layer]

    @property
    def embed(self) -> nn.Module:
        """The module that is called with the token ids."""
        return self.model.embed

    @abstractmethod
    def mlp(self, layer: int) -> nn.Module:
        """The MLP module of a layer; raises SpliceError where there is none that can be replaced."""

    @abstractmethod
    def post_norm(self, layer: int) -> nn.Module | None:
        """The norm between the MLP module and the residual stream (Gemma), or None."""

    def norm(self, layer: int) -> NormWeights:
        """A copy of what ln2 multiplies and adds; raises SpliceError where the block has no ln2 or its gain was folded."""
        found = None if self.folded else self._ln2(layer)
        if found is None:
            raise SpliceError(
                f"blocks.{layer}.ln2",
                got="a processed model, whose gains are gone" if self.folded else "no such norm",
                expected="a raw model with a norm before its MLP",
                do="Ask before the weights are processed (Bridge: before enable_compatibility_mode()).",
            )
        return found

    @abstractmethod
    def _ln2(self, layer: int) -> NormWeights | None:
        """The norm before the MLP of a raw model, or None where there is none."""

    def post_norm_name(self, layer: int) -> str:
        """What the block calls that norm."""
        return "ln2_post"

    # hook points

    def hook_point(self, site: Site, layer: int) -> HookPoint:
        """The hook point of a site; raises SpliceError where the architecture has none."""
        self.check_layer(layer)
        name = HOOK_NAMES[site].format(layer=layer)
        found = self.model.hook_dict.get(name)
        if found is None:
            raise SpliceError(
                site_name(site, layer),
                got="no such hook point on this model",
                expected="a hook point for the site",
                do="Choose another site (blocks with parallel attention and MLP have no resid_mid).",
            )
        return found

    @abstractmethod
    def rejoins(self, site: Site, layer: int) -> HookPoint | None:
        """Where a copy of the residual stream that has not passed the site's hook point is added back, or None.

        What a hook point of the Bridge returns may reach the branch behind it only, and not the stream.
        """

    @abstractmethod
    def outer_hook_points(self, module: nn.Module) -> dict[str, HookPoint]:
        """The `hook_in` and `hook_out` through which a module receives and returns, where the host gives it any."""

    @abstractmethod
    def give_up_hook_points(self, module: nn.Module, names: Iterable[str]) -> Undo:
        """Leave fresh, silent hook points in a module whose own have gone to its stand-in."""

    # attention

    rotary_hooks: ClassVar[tuple[str, ...]] = ()
    """Hook points of a block that show its rotation."""

    @abstractmethod
    def attention_weights(self, layer: int) -> dict[str, Tensor | None]:
        """`W_Q, W_K, W_V, W_O [head d_model d_head | head d_head d_model]` and their biases, None for no bias.

        Keys and values have as many heads as the weights hold.
        """

    @abstractmethod
    def attention_scale(self, layer: int) -> float:
        """What products of queries and keys are multiplied with, as the model declares it."""

    @abstractmethod
    def rotary(self, layer: int, length: int, seen: Mapping[str, Tensor]) -> Rotary | None:
        """The rotation of the first `length` positions, by what `rotary_hooks` showed; None where there is none."""

    @abstractmethod
    def positions_before(self, layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """How many positions a key-value cache holds for the block of a layer when it is called with these arguments."""

    # what is done to it

    @abstractmethod
    def replace(
        self, layer: int, part: str, module: nn.Module, *, hook_points: Iterable[str]
    ) -> Undo:
        """Put `module` where `blocks.{layer}.{part}` stands and list its hook points of these names."""

    @abstractmethod
    def attach(self, hook_point: HookPoint, name: str, module: nn.Module) -> Undo:
        """Hang `module` under a hook point and list its hook points under `name`."""

    @contextmanager
    def in_eval_mode(self) -> Iterator[None]:
        """A while without dropout and the like; afterwards every module is in the mode it was in."""
        before = {module: module.training for module in self.modules()}
        for module in before:
            module.training = False
        try:
            yield
        finally:
            for module, training in before.items():
                module.training = training

    def run(self, tokens: Int[Tensor, "batch pos"], *, stop_at_layer: int | None = None) -> None:
        """One forward pass without gradient, for what its hooks see."""
        with torch.no_grad():
            self.model(tokens.to(self.device), return_type=None, stop_at_layer=stop_at_layer)

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """Logits of one forward pass without gradient."""
        with torch.no_grad():
            return self.model(tokens.to(self.device), return_type="logits")

    def recording(
        self, sites: Iterable[tuple[int, Site]]
    ) -> AbstractContextManager[dict[tuple[int, Site], Tensor]]:
        """A context that keeps, in a dictionary, the last run's detached values at `(layer, site)`."""
        return Recording(self, list(sites))

    # checks

    def check_layer(self, layer: int) -> None:
        """Raise SpliceError for a layer the model does not have."""
        if not 0 <= layer < self.n_layers:
            raise SpliceError(
                f"layer {layer}",
                got=f"a model of {self.n_layers} layers",
                expected=f"a layer from 0 to {self.n_layers - 1}",
                do="Choose a layer of the model.",
            )

    def _first_parameter(self) -> nn.Parameter:
        return next(self.model.parameters())
