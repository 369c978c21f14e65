"""Swap the MLPs of a TransformerLens model for sparse transcoders and hook their features."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from tl_transcoders.hub import load as load
from tl_transcoders.hub import push_to_hub as push_to_hub
from tl_transcoders.hub import releases as releases
from tl_transcoders.hub import save as save
from tl_transcoders.splice import HookedTranscoder as HookedTranscoder
from tl_transcoders.splice import Spliced as Spliced
from tl_transcoders.splice import check as check
from tl_transcoders.splice import splice as splice
from tl_transcoders.splice import unsplice as unsplice
from tl_transcoders.transcoders import BatchTopK as BatchTopK
from tl_transcoders.transcoders import CrossLayerConfig as CrossLayerConfig
from tl_transcoders.transcoders import CrossLayerTranscoder as CrossLayerTranscoder
from tl_transcoders.transcoders import JumpReLU as JumpReLU
from tl_transcoders.transcoders import ReLU as ReLU
from tl_transcoders.transcoders import TopK as TopK
from tl_transcoders.transcoders import Transcoder as Transcoder
from tl_transcoders.transcoders import TranscoderConfig as TranscoderConfig
from tl_transcoders.transcoders import TranscoderSet as TranscoderSet

if TYPE_CHECKING:
    from tl_transcoders.circuits.attention import head_loadings as head_loadings
    from tl_transcoders.circuits.attention import qk_attribution as qk_attribution
    from tl_transcoders.circuits.attention import with_heads as with_heads
    from tl_transcoders.circuits.attribution import Attribution as Attribution
    from tl_transcoders.circuits.attribution import AttributionPatching as AttributionPatching
    from tl_transcoders.circuits.attribution import FrozenLinear as FrozenLinear
    from tl_transcoders.circuits.attribution import IntegratedGradients as IntegratedGradients
    from tl_transcoders.circuits.attribution import RelP as RelP
    from tl_transcoders.circuits.attribution import attribute as attribute
    from tl_transcoders.circuits.edits import Ablate as Ablate
    from tl_transcoders.circuits.edits import Add as Add
    from tl_transcoders.circuits.edits import Mean as Mean
    from tl_transcoders.circuits.edits import Patch as Patch
    from tl_transcoders.circuits.edits import Scale as Scale
    from tl_transcoders.circuits.edits import Set as Set
    from tl_transcoders.circuits.graphs import Graph as Graph
    from tl_transcoders.circuits.graphs import attribution_graph as attribution_graph
    from tl_transcoders.circuits.interventions import Intervened as Intervened
    from tl_transcoders.circuits.interventions import intervene as intervene
    from tl_transcoders.circuits.interventions import intervening as intervening
    from tl_transcoders.circuits.nodes import Error as Error
    from tl_transcoders.circuits.nodes import Feature as Feature
    from tl_transcoders.circuits.nodes import Head as Head
    from tl_transcoders.circuits.nodes import Mlp as Mlp
    from tl_transcoders.circuits.patching import Freeze as Freeze
    from tl_transcoders.circuits.patching import path_patch as path_patch
    from tl_transcoders.evaluation import Effect as Effect
    from tl_transcoders.evaluation import LayerReport as LayerReport
    from tl_transcoders.evaluation import Report as Report
    from tl_transcoders.evaluation import evaluate as evaluate
    from tl_transcoders.training import TrainConfig as TrainConfig
    from tl_transcoders.training import train as train
    from tl_transcoders.training import train_cross_layer as train_cross_layer

_LATER: Final = {
    "Ablate": "tl_transcoders.circuits.edits",
    "Add": "tl_transcoders.circuits.edits",
    "Attribution": "tl_transcoders.circuits.attribution",
    "AttributionPatching": "tl_transcoders.circuits.attribution",
    "Effect": "tl_transcoders.evaluation",
    "Error": "tl_transcoders.circuits.nodes",
    "Feature": "tl_transcoders.circuits.nodes",
    "Freeze": "tl_transcoders.circuits.patching",
    "FrozenLinear": "tl_transcoders.circuits.attribution",
    "Graph": "tl_transcoders.circuits.graphs",
    "Head": "tl_transcoders.circuits.nodes",
    "IntegratedGradients": "tl_transcoders.circuits.attribution",
    "Intervened": "tl_transcoders.circuits.interventions",
    "LayerReport": "tl_transcoders.evaluation",
    "Mean": "tl_transcoders.circuits.edits",
    "Mlp": "tl_transcoders.circuits.nodes",
    "Patch": "tl_transcoders.circuits.edits",
    "RelP": "tl_transcoders.circuits.attribution",
    "Report": "tl_transcoders.evaluation",
    "Scale": "tl_transcoders.circuits.edits",
    "Set": "tl_transcoders.circuits.edits",
    "TrainConfig": "tl_transcoders.training",
    "attribute": "tl_transcoders.circuits.attribution",
    "attribution_graph": "tl_transcoders.circuits.graphs",
    "evaluate": "tl_transcoders.evaluation",
    "head_loadings": "tl_transcoders.circuits.attention",
    "intervene": "tl_transcoders.circuits.interventions",
    "intervening": "tl_transcoders.circuits.interventions",
    "path_patch": "tl_transcoders.circuits.patching",
    "qk_attribution": "tl_transcoders.circuits.attention",
    "train": "tl_transcoders.training",
    "train_cross_layer": "tl_transcoders.training",
    "with_heads": "tl_transcoders.circuits.attention",
}
"""Names whose modules are imported when they are first used, so that importing the package is quick."""

__all__ = [
    "Ablate",
    "Add",
    "Attribution",
    "AttributionPatching",
    "BatchTopK",
    "CrossLayerConfig",
    "CrossLayerTranscoder",
    "Effect",
    "Error",
    "Feature",
    "Freeze",
    "FrozenLinear",
    "Graph",
    "Head",
    "HookedTranscoder",
    "IntegratedGradients",
    "Intervened",
    "JumpReLU",
    "LayerReport",
    "Mean",
    "Mlp",
    "Patch",
    "ReLU",
    "RelP",
    "Report",
    "Scale",
    "Set",
    "Spliced",
    "TopK",
    "TrainConfig",
    "Transcoder",
    "TranscoderConfig",
    "TranscoderSet",
    "attribute",
    "attribution_graph",
    "check",
    "evaluate",
    "head_loadings",
    "intervene",
    "intervening",
    "load",
    "path_patch",
    "push_to_hub",
    "qk_attribution",
    "releases",
    "save",
    "splice",
    "train",
    "train_cross_layer",
    "unsplice",
    "with_heads",
]


def __getattr__(name: str) -> object:
    """A name whose module is imported now."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
