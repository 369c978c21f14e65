"""Swap the MLPs of a TransformerLens model for sparse transcoders and hook their features."""

from tl_transcoders.circuits.interventions import Ablate as Ablate
from tl_transcoders.circuits.interventions import Add as Add
from tl_transcoders.circuits.interventions import Intervened as Intervened
from tl_transcoders.circuits.interventions import Patch as Patch
from tl_transcoders.circuits.interventions import Scale as Scale
from tl_transcoders.circuits.interventions import Set as Set
from tl_transcoders.circuits.interventions import intervene as intervene
from tl_transcoders.circuits.interventions import intervening as intervening
from tl_transcoders.circuits.nodes import Error as Error
from tl_transcoders.circuits.nodes import Feature as Feature
from tl_transcoders.circuits.nodes import Head as Head
from tl_transcoders.circuits.nodes import Mlp as Mlp
from tl_transcoders.evaluation import Effect as Effect
from tl_transcoders.evaluation import LayerReport as LayerReport
from tl_transcoders.evaluation import Report as Report
from tl_transcoders.evaluation import evaluate as evaluate
from tl_transcoders.hub import load as load
from tl_transcoders.hub import push_to_hub as push_to_hub
from tl_transcoders.hub import releases as releases
from tl_transcoders.hub import save as save
from tl_transcoders.splice import HookedTranscoder as HookedTranscoder
from tl_transcoders.splice import Spliced as Spliced
from tl_transcoders.splice import check as check
from tl_transcoders.splice import splice as splice
from tl_transcoders.splice import unsplice as unsplice
from tl_transcoders.training import TrainConfig as TrainConfig
from tl_transcoders.training import train as train
from tl_transcoders.training import train_cross_layer as train_cross_layer
from tl_transcoders.transcoders import BatchTopK as BatchTopK
from tl_transcoders.transcoders import CrossLayerConfig as CrossLayerConfig
from tl_transcoders.transcoders import CrossLayerTranscoder as CrossLayerTranscoder
from tl_transcoders.transcoders import JumpReLU as JumpReLU
from tl_transcoders.transcoders import ReLU as ReLU
from tl_transcoders.transcoders import TopK as TopK
from tl_transcoders.transcoders import Transcoder as Transcoder
from tl_transcoders.transcoders import TranscoderConfig as TranscoderConfig
from tl_transcoders.transcoders import TranscoderSet as TranscoderSet

__all__ = [
    "Ablate",
    "Add",
    "BatchTopK",
    "CrossLayerConfig",
    "CrossLayerTranscoder",
    "Effect",
    "Error",
    "Feature",
    "Head",
    "HookedTranscoder",
    "Intervened",
    "JumpReLU",
    "LayerReport",
    "Mlp",
    "Patch",
    "ReLU",
    "Report",
    "Scale",
    "Set",
    "Spliced",
    "TopK",
    "TrainConfig",
    "Transcoder",
    "TranscoderConfig",
    "TranscoderSet",
    "check",
    "evaluate",
    "intervene",
    "intervening",
    "load",
    "push_to_hub",
    "releases",
    "save",
    "splice",
    "train",
    "train_cross_layer",
    "unsplice",
]
