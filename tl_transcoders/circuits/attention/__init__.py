"""Attention in attribution graphs: what passes through heads, and why they attend where they do."""

from tl_transcoders.circuits.attention.head_nodes import with_heads as with_heads
from tl_transcoders.circuits.attention.loadings import HeadLoadings as HeadLoadings
from tl_transcoders.circuits.attention.loadings import LoadingTable as LoadingTable
from tl_transcoders.circuits.attention.loadings import head_loadings as head_loadings
from tl_transcoders.circuits.attention.loadings import loading_table as loading_table
from tl_transcoders.circuits.attention.paths import HeadPath as HeadPath
from tl_transcoders.circuits.attention.paths import HeadPaths as HeadPaths
from tl_transcoders.circuits.attention.paths import head_path as head_path
from tl_transcoders.circuits.attention.paths import head_paths as head_paths
from tl_transcoders.circuits.attention.qk import QKAttribution as QKAttribution
from tl_transcoders.circuits.attention.qk import qk_attribution as qk_attribution
from tl_transcoders.circuits.attention.row import AttentionRow as AttentionRow
from tl_transcoders.circuits.attention.row import RowTerm as RowTerm
from tl_transcoders.circuits.attention.row import attention_row as attention_row
