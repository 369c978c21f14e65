"""This package's own layout: what `tl_transcoders.save` writes."""

from pathlib import Path

from tests.hub.samples import cross_layer, transcoder_set
from tl_transcoders.hub import save

CASES = ("set", "cross-layer")


def write(folder: Path, *, case: str = "set") -> None:
    """A set of two layers, or a cross-layer transcoder."""
    save(transcoder_set(2, 3) if case == "set" else cross_layer(), folder)
