"""Swap the MLPs of a TransformerLens model for sparse transcoders and hook their features."""

from tl_transcoders.evaluation import evaluate as evaluate
from tl_transcoders.hub import load as load
from tl_transcoders.hub import push_to_hub as push_to_hub
from tl_transcoders.hub import save as save
from tl_transcoders.splice import HookedTranscoder as HookedTranscoder
from tl_transcoders.splice import splice as splice
from tl_transcoders.transcoders import CrossLayerTranscoder as CrossLayerTranscoder
from tl_transcoders.transcoders import Transcoder as Transcoder
from tl_transcoders.transcoders import TranscoderSet as TranscoderSet
