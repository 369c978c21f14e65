"""Attention in attribution graphs: what passes through heads, and why they attend where they do."""

from tl_transcoders.circuits.attention.loadings import HeadLoadings as HeadLoadings
from tl_transcoders.circuits.attention.loadings import LoadingTable as LoadingTable
from tl_transcoders.circuits.attention.loadings import head_loadings as head_loadings
from tl_transcoders.circuits.attention.loadings import loading_table as loading_table
