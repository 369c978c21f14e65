"""To and from peers' objects in memory, and exports to their layouts. No peer is imported until one is asked for."""

from tl_transcoders.hub.interop.sae_lens import from_sae_lens as from_sae_lens
from tl_transcoders.hub.interop.sae_lens import save_sae_lens as save_sae_lens
from tl_transcoders.hub.interop.sae_lens import to_sae_lens as to_sae_lens
from tl_transcoders.hub.interop.sparsify import from_sparsify as from_sparsify
