"""Finding the circuit of a task, and how faithful circuits of every size are."""

from tl_transcoders.circuits.discovery.acdc import acdc as acdc
from tl_transcoders.circuits.discovery.curve import Curve as Curve
from tl_transcoders.circuits.discovery.curve import curve as curve
from tl_transcoders.circuits.discovery.greedy import greedy as greedy
from tl_transcoders.circuits.discovery.sparse_features import (
    SparseFeatureCircuit as SparseFeatureCircuit,
)
from tl_transcoders.circuits.discovery.sparse_features import (
    sparse_feature_circuit as sparse_feature_circuit,
)
