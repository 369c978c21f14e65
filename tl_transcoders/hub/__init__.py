"""Transcoders from folders and hub repositories, and back."""

from tl_transcoders.hub.circuit_tracer_write import save_circuit_tracer as save_circuit_tracer
from tl_transcoders.hub.load import load as load
from tl_transcoders.hub.push import push_to_hub as push_to_hub
from tl_transcoders.hub.save import save as save
