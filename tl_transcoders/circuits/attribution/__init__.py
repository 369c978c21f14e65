"""What nodes and edges are worth to first order: attribution patching, integrated gradients and their kin."""

from tl_transcoders.circuits.attribution.attribute import attribute as attribute
from tl_transcoders.circuits.attribution.methods import (
    AttributionPatching as AttributionPatching,
)
from tl_transcoders.circuits.attribution.methods import FrozenLinear as FrozenLinear
from tl_transcoders.circuits.attribution.methods import (
    IntegratedGradients as IntegratedGradients,
)
from tl_transcoders.circuits.attribution.methods import RelP as RelP
from tl_transcoders.circuits.attribution.result import Attribution as Attribution
from tl_transcoders.circuits.attribution.result import EdgeEffects as EdgeEffects
from tl_transcoders.circuits.attribution.result import NodeEffects as NodeEffects
