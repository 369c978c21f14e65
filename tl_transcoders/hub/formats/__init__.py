"""The published layouts, one file each. They know nothing of one another."""

from tl_transcoders.hub.format import Format
from tl_transcoders.hub.formats.circuit_tracer import CIRCUIT_TRACER
from tl_transcoders.hub.formats.clt_training import CLT_TRAINING
from tl_transcoders.hub.formats.dictionary_learning import DICTIONARY_LEARNING
from tl_transcoders.hub.formats.dunefsky import DUNEFSKY
from tl_transcoders.hub.formats.gemma_scope import GEMMA_SCOPE
from tl_transcoders.hub.formats.gemma_scope_2 import GEMMA_SCOPE_2
from tl_transcoders.hub.formats.llama_scope import LLAMA_SCOPE
from tl_transcoders.hub.formats.native import NATIVE
from tl_transcoders.hub.formats.sae_lens import SAE_LENS
from tl_transcoders.hub.formats.sparsify import SPARSIFY

FORMATS: tuple[Format, ...] = (
    NATIVE,
    SAE_LENS,
    GEMMA_SCOPE_2,
    CIRCUIT_TRACER,
    CLT_TRAINING,
    SPARSIFY,
    DUNEFSKY,
    GEMMA_SCOPE,
    DICTIONARY_LEARNING,
    LLAMA_SCOPE,
)
"""In the order in which they are asked whether they recognise a folder."""
