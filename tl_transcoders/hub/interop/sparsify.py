"""Sparsify's objects."""

from typing import Protocol, runtime_checkable

from tl_transcoders.errors import ConfigError
from tl_transcoders.hub.build import build
from tl_transcoders.hub.interop.objects import PeerObject, config_of, tensors_of
from tl_transcoders.hub.layouts.sparsify_config import sparsify_config
from tl_transcoders.hub.layouts.sparsify_hookpoints import parse_hookpoint
from tl_transcoders.hub.layouts.sparsify_weights import canonical, shapes
from tl_transcoders.transcoders import Transcoder


@runtime_checkable
class SparseCoder(PeerObject, Protocol):
    """Sparsify's module, which keeps its width beside the config."""

    @property
    def d_in(self) -> int:
        """The width of input and output."""
        ...


def from_sparsify(coder: SparseCoder, hookpoint: str) -> Transcoder:
    """A sparsify transcoder or SAE as one of ours; weights in which nothing is folded share its memory.

    **Arguments:** `hookpoint`, such as `"layers.3.mlp"`: the object does not know where it stood.

    **Raises:** ConfigError for a hookpoint that is none; TranscoderFormatError, with the reason, for what
    `load` refuses of a sparsify folder.
    """
    found = parse_hookpoint(hookpoint)
    if found is None:
        raise ConfigError(
            "hookpoint",
            got=repr(hookpoint),
            expected='the name of a block or of its MLP or attention, such as "layers.3.mlp"',
            do="Pass the name under which sparsify saved it.",
        )
    cfg = {**config_of(coder, SparseCoder), "d_in": coder.d_in}
    config = sparsify_config(f"cfg of {hookpoint}", cfg, found, transcodes=None)
    return build(config.transcoder, canonical(config, tensors_of(coder, shapes(config), {})))
