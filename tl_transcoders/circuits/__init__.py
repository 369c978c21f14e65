"""Circuits: nodes, metrics, tasks, patching, attribution, ablation, discovery."""

from tl_transcoders.circuits.ablation import Faithfulness as Faithfulness
from tl_transcoders.circuits.ablation import Resample as Resample
from tl_transcoders.circuits.ablation import Zero as Zero
from tl_transcoders.circuits.ablation import faithfulness as faithfulness
from tl_transcoders.circuits.attention import AttentionRow as AttentionRow
from tl_transcoders.circuits.attention import HeadLoadings as HeadLoadings
from tl_transcoders.circuits.attention import HeadPath as HeadPath
from tl_transcoders.circuits.attention import HeadPaths as HeadPaths
from tl_transcoders.circuits.attention import LoadingTable as LoadingTable
from tl_transcoders.circuits.attention import QKAttribution as QKAttribution
from tl_transcoders.circuits.attention import RowTerm as RowTerm
from tl_transcoders.circuits.attention import attention_row as attention_row
from tl_transcoders.circuits.attention import head_loadings as head_loadings
from tl_transcoders.circuits.attention import head_path as head_path
from tl_transcoders.circuits.attention import head_paths as head_paths
from tl_transcoders.circuits.attention import loading_table as loading_table
from tl_transcoders.circuits.attention import qk_attribution as qk_attribution
from tl_transcoders.circuits.attention import with_heads as with_heads
from tl_transcoders.circuits.circuit import Circuit as Circuit
from tl_transcoders.circuits.discovery import Curve as Curve
from tl_transcoders.circuits.discovery import SparseFeatureCircuit as SparseFeatureCircuit
from tl_transcoders.circuits.discovery import acdc as acdc
from tl_transcoders.circuits.discovery import curve as curve
from tl_transcoders.circuits.discovery import greedy as greedy
from tl_transcoders.circuits.discovery import (
    sparse_feature_circuit as sparse_feature_circuit,
)
from tl_transcoders.circuits.metrics import AbstractMetric as AbstractMetric
from tl_transcoders.circuits.metrics import CustomMetric as CustomMetric
from tl_transcoders.circuits.metrics import KLDivergence as KLDivergence
from tl_transcoders.circuits.metrics import LogitDiff as LogitDiff
from tl_transcoders.circuits.metrics import LogProb as LogProb
from tl_transcoders.circuits.metrics import ProbDiff as ProbDiff
from tl_transcoders.circuits.metrics import TokenLogit as TokenLogit
from tl_transcoders.circuits.nodes import Edge as Edge
from tl_transcoders.circuits.nodes import Embed as Embed
from tl_transcoders.circuits.nodes import Error as Error
from tl_transcoders.circuits.nodes import Feature as Feature
from tl_transcoders.circuits.nodes import Head as Head
from tl_transcoders.circuits.nodes import KeyValue as KeyValue
from tl_transcoders.circuits.nodes import Logits as Logits
from tl_transcoders.circuits.nodes import Mlp as Mlp
from tl_transcoders.circuits.nodes import Node as Node
from tl_transcoders.circuits.nodes import parse_node as parse_node
from tl_transcoders.circuits.nodes import parse_path as parse_path
from tl_transcoders.circuits.nodes import write_node as write_node
from tl_transcoders.circuits.nodes import write_path as write_path
from tl_transcoders.splice.trace.run import Run as Run
from tl_transcoders.splice.trace.run import capture as capture
