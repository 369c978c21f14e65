"""The only importer of transformer_lens."""

from transformer_lens.hook_points import HookPoint as HookPoint

from tl_transcoders.hosts.anatomy import Anatomy as Anatomy
from tl_transcoders.hosts.anatomy import Attention as Attention
from tl_transcoders.hosts.anatomy import Block as Block
from tl_transcoders.hosts.anatomy import Norm as Norm
from tl_transcoders.hosts.anatomy import Rotary as Rotary
from tl_transcoders.hosts.anatomy import Wiring as Wiring
from tl_transcoders.hosts.base import AbstractHost as AbstractHost
from tl_transcoders.hosts.dissect import Observation as Observation
from tl_transcoders.hosts.dissect import dissect as dissect
from tl_transcoders.hosts.dissect import observe as observe
from tl_transcoders.hosts.dissect import quiet as quiet
from tl_transcoders.hosts.embedding import token_embeddings as token_embeddings
from tl_transcoders.hosts.forward_pass import watch_passes as watch_passes
from tl_transcoders.hosts.norm_weights import NormWeights as NormWeights
from tl_transcoders.hosts.registry import Undo as Undo
from tl_transcoders.hosts.registry import all_hook_points as all_hook_points
from tl_transcoders.hosts.resolve import resolve_host as resolve_host
from tl_transcoders.hosts.sites import HOOK_NAMES as HOOK_NAMES
from tl_transcoders.hosts.sites import RESIDUAL_SITES as RESIDUAL_SITES
from tl_transcoders.hosts.sites import site_name as site_name
from tl_transcoders.hosts.tap import Silence as Silence
from tl_transcoders.hosts.tap import Tap as Tap
from tl_transcoders.hosts.tap import is_hooked as is_hooked
from tl_transcoders.hosts.tap import tensor_version as tensor_version
from tl_transcoders.hosts.tokens import check_ids as check_ids
from tl_transcoders.hosts.tokens import check_length as check_length
from tl_transcoders.hosts.tokens import check_tokens as check_tokens
