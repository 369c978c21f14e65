"""The published layouts, one file each. They know nothing of one another."""

from tl_transcoders.hub.format import Format
from tl_transcoders.hub.formats.circuit_tracer import CIRCUIT_TRACER
from tl_transcoders.hub.formats.clt_training import CLT_TRAINING
from tl_transcoders.hub.formats.native import NATIVE

FORMATS: tuple[Format, ...] = (
    NATIVE,
    CIRCUIT_TRACER,
    CLT_TRAINING,
)
"""In the order in which they are asked whether they recognise a folder."""
