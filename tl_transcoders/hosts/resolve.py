"""Which host a model is."""

import sys

from torch import nn

from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts.base import AbstractHost
from tl_transcoders.hosts.bridge import BridgeHost
from tl_transcoders.hosts.hooked import HookedHost

HOSTS: tuple[tuple[str, str, type[AbstractHost]], ...] = (
    ("transformer_lens.model_bridge", "TransformerBridge", BridgeHost),
    ("transformer_lens.HookedTransformer", "HookedTransformer", HookedHost),
)


def resolve_host(model: nn.Module) -> AbstractHost:
    """The host of a HookedTransformer or TransformerBridge; raises SpliceError for anything else."""
    for module, name, host in HOSTS:
        # Whoever has such a model has imported its class; importing it here would cost everyone seconds.
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(model, kind):
            return host(model)
    raise SpliceError(
        "model",
        got=f"{type(model).__module__}.{type(model).__qualname__}",
        expected="a HookedTransformer (transformer-lens 3.9) or a TransformerBridge (3.9 or 4)",
        do="Load the model with one of them.",
    )
