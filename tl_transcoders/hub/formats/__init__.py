"""The published layouts, one file each. They know nothing of one another."""

from tl_transcoders.hub.format import Format
from tl_transcoders.hub.formats.gemma_scope_2 import GEMMA_SCOPE_2
from tl_transcoders.hub.formats.native import NATIVE
from tl_transcoders.hub.formats.sae_lens import SAE_LENS
from tl_transcoders.hub.formats.sparsify import SPARSIFY

FORMATS: tuple[Format, ...] = (
    NATIVE,
    SAE_LENS,
    GEMMA_SCOPE_2,
    SPARSIFY,
)
"""In the order in which they are asked whether they recognise a folder."""
