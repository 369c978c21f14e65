"""Which host a model is."""

from torch import nn

from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts.base import AbstractHost
from tl_transcoders.hosts.bridge import BridgeHost
from tl_transcoders.hosts.hooked import HookedHost

try:
    from transformer_lens import HookedTransformer  # pyright: ignore[reportAttributeAccessIssue]
except ImportError:  # removed in TransformerLens 4
    HookedTransformer = None
from transformer_lens.model_bridge import TransformerBridge


def resolve_host(model: nn.Module) -> AbstractHost:
    """The host of a HookedTransformer or TransformerBridge; raises SpliceError for anything else."""
    if isinstance(model, TransformerBridge):
        return BridgeHost(model)
    if HookedTransformer is not None and isinstance(model, HookedTransformer):
        return HookedHost(model)
    raise SpliceError(
        "model",
        got=f"{type(model).__module__}.{type(model).__qualname__}",
        expected="a HookedTransformer (transformer-lens 3.9) or a TransformerBridge (3.9 or 4)",
        do="Load the model with one of them.",
    )
