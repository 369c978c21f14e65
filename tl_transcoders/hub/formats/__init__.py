"""The published layouts, one file each. They know nothing of one another."""

from tl_transcoders.hub.format import Format
from tl_transcoders.hub.formats.native import NATIVE

FORMATS: tuple[Format, ...] = (NATIVE,)
"""In the order in which they are asked whether they recognise a folder."""
