"""Saying that weights belong at another tap than their config states."""

from dataclasses import replace

from tl_transcoders._types import Site
from tl_transcoders.splice.layer_weights import joined, rebuilt, units_of, weights_of
from tl_transcoders.transcoders import CrossLayerTranscoder, TranscoderSet


def retap(
    transcoders: TranscoderSet | CrossLayerTranscoder,
    *,
    read: Site | None = None,
    write: Site | None = None,
    folded: bool | None = None,
) -> TranscoderSet | CrossLayerTranscoder:
    """The same weights, in the same memory and frozen, with another read site, write site or world.

    For sets whose published config is wrong, as `tl_transcoders.check` finds out; where only the model
    is of the other kind, `splice` folds by itself.

    **Raises:** ConfigError for a pair of sites no transcoder can have.
    """
    given = {"read": read, "write": write, "folded": folded}
    changes = {name: value for name, value in given.items() if value is not None}
    units = units_of(transcoders)
    moved = [rebuilt(u, replace(u.cfg, **changes), weights_of(u)) for u in units]  # pyright: ignore[reportArgumentType]
    return joined(transcoders, moved)
