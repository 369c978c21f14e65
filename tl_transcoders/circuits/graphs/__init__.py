"""Attribution graphs."""

from tl_transcoders.circuits.graphs.attribution_graph import attribution_graph as attribution_graph
from tl_transcoders.circuits.graphs.attribution_graph import (
    attribution_graphs as attribution_graphs,
)
from tl_transcoders.circuits.graphs.compare import Comparison as Comparison
from tl_transcoders.circuits.graphs.compare import compare as compare
from tl_transcoders.circuits.graphs.graph import Graph as Graph
from tl_transcoders.circuits.graphs.merge import MergedGraph as MergedGraph
from tl_transcoders.circuits.graphs.merge import merge as merge
from tl_transcoders.circuits.graphs.nodes import Bias as Bias
from tl_transcoders.circuits.graphs.nodes import Difference as Difference
from tl_transcoders.circuits.graphs.nodes import GraphNode as GraphNode
from tl_transcoders.circuits.graphs.nodes import Token as Token
from tl_transcoders.circuits.graphs.outcomes import TopTokens as TopTokens
from tl_transcoders.circuits.graphs.paths import GraphPath as GraphPath
from tl_transcoders.circuits.graphs.scores import Scores as Scores
from tl_transcoders.circuits.graphs.super_graph import SuperGraph as SuperGraph
from tl_transcoders.circuits.graphs.tracer import Tracer as Tracer
from tl_transcoders.circuits.graphs.validate import Validation as Validation
