"""What the token of every id puts into the residual stream."""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts.base import AbstractHost
from tl_transcoders.hosts.dissect import quiet

CHUNK = 4096
PROBE = ((0,), (1,))


def token_embeddings(host: AbstractHost) -> Float[Tensor, "vocab d_model"]:
    """W_E as the model uses it, scaled where the model scales it; positions are left out.

    **Raises:** SpliceError where the stream begins with something else than token plus position.
    """
    with quiet(host), torch.no_grad():
        ids = torch.arange(host.d_vocab, device=host.device)
        found = torch.cat([host.embed(part[None])[0] for part in ids.split(CHUNK)]).detach()
    _check(host, found)
    return found


def _check(host: AbstractHost, found: Tensor) -> None:
    """Two prompts of one token differ at the start of the stream as the embeddings of their tokens do."""
    seen: list[Tensor] = []
    point = host.model.hook_dict["blocks.0.hook_resid_pre"]
    with quiet(host):
        handle = point.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
        try:
            host.run(torch.tensor(PROBE), stop_at_layer=1)
        finally:
            handle.remove()
    (stream,) = seen
    expected, got = found[0] - found[1], stream[0, 0] - stream[1, 0]
    gap = float((expected - got).abs().max() / expected.abs().max().clamp(min=1e-30))
    if gap > 1e-2:
        raise SpliceError(
            "token embeddings",
            got=f"a residual stream that differs from them by {gap:.2g} of the largest",
            expected="a stream that begins as token embedding plus position embedding",
            do="Use embeddings of a run instead (attribution_graph); please report the architecture.",
        )
