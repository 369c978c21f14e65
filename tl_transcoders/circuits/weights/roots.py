"""What paths begin with: an outcome or a feature of a run, as it reads the residual stream."""

from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.nodes import NodeTable, Outcome
from tl_transcoders.circuits.graphs.readers import read
from tl_transcoders.circuits.nodes import Feature
from tl_transcoders.circuits.weights.reading import Reading


def root(frame: Frame, node: Outcome) -> Reading:
    """A token, a difference of tokens, or a feature at a position."""
    found = read(frame, NodeTable.of([node], frame.n_layers))
    layer = node.layer if isinstance(node, Feature) else frame.n_layers
    behind = layer + 1 if isinstance(node, Feature) and not frame.block(layer).parallel else layer
    assert node.pos is not None
    return Reading(
        node=node,
        heads=behind,
        mlps=layer,
        pos=node.pos,
        vector=found.vector[0],
        bias=float(found.bias[0]),
        value=float(found.value[0]),
    )
