"""Transcoders from folders and hub repositories, and back."""

from tl_transcoders.hub.circuit_tracer_write import save_circuit_tracer as save_circuit_tracer
from tl_transcoders.hub.interop import from_sae_lens as from_sae_lens
from tl_transcoders.hub.interop import from_sparsify as from_sparsify
from tl_transcoders.hub.interop import save_sae_lens as save_sae_lens
from tl_transcoders.hub.interop import to_sae_lens as to_sae_lens
from tl_transcoders.hub.load import load as load
from tl_transcoders.hub.push import push_to_hub as push_to_hub
from tl_transcoders.hub.release import Release as Release
from tl_transcoders.hub.release import Releases as Releases
from tl_transcoders.hub.releases import releases as releases
from tl_transcoders.hub.save import save as save
