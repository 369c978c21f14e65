"""The maths of transcoders: pure torch, no file, no host."""

from tl_transcoders.transcoders.activations import Activation as Activation
from tl_transcoders.transcoders.activations import BatchTopK as BatchTopK
from tl_transcoders.transcoders.activations import JumpReLU as JumpReLU
from tl_transcoders.transcoders.activations import ReLU as ReLU
from tl_transcoders.transcoders.activations import TopK as TopK
from tl_transcoders.transcoders.config import CrossLayerConfig as CrossLayerConfig
from tl_transcoders.transcoders.config import TranscoderConfig as TranscoderConfig
from tl_transcoders.transcoders.cross_layer import CrossLayerTranscoder as CrossLayerTranscoder
from tl_transcoders.transcoders.origin import Origin as Origin
from tl_transcoders.transcoders.sparse import SparseFeatures as SparseFeatures
from tl_transcoders.transcoders.transcoder import Transcoder as Transcoder
from tl_transcoders.transcoders.transcoder_set import TranscoderSet as TranscoderSet
