"""A key that changes at one position: what the engine computes is the closed form."""

import pytest
import torch
from torch import Tensor

from tests.cases import HOSTS, Host, Kind, case_id, tokens
from tl_transcoders.circuits.edits import Patch
from tl_transcoders.circuits.nodes import Embed, Head
from tl_transcoders.circuits.patching.freeze import Freeze
from tl_transcoders.circuits.patching.path_patch import hop_of
from tl_transcoders.circuits.patching.send import send
from tl_transcoders.splice import splice
from tl_transcoders.splice.trace.run import Run, capture

pytestmark = pytest.mark.cases
LAYER, HEAD, POS = 2, 1, 2


def engine(base: Run, source: Run) -> Tensor:
    """What the head mixes from that position on when its key there is the one that follows from a patched embedding."""
    hop = hop_of(base, source, Freeze())
    receiver = Head(LAYER, HEAD, "k", POS)
    sent = send({Embed(): Patch(source.tokens)}, base, source)
    [edit] = hop.as_senders(hop.answer([receiver], hop.arrive(sent, [receiver])))
    assert edit.positions.tolist() == list(range(POS, base.shape[1]))
    return edit.value[:, :, 0]


def closed_form(base: Run, source: Run, *, W_K_times: float | Tensor = 1.0) -> Tensor:
    """z + g / (1 + g) · (v_t − z), with g = p (e^Δs − 1) and Δs the change of the score of t."""
    block, wiring = base.model.anatomy.blocks[LAYER], base.wirings[LAYER]
    attention, group = block.attention, HEAD // block.attention.heads_per_group
    x = block.ln1(base.values["resid_pre", LAYER] + source.embed - base.embed)
    key = x @ (attention.W_K[group] * W_K_times) + attention.b_K[group]
    keys = base.values["k", LAYER].clone()
    keys[:, :, HEAD] = key
    change = (attention.turn_k(keys, wiring) - base.values["turned_k", LAYER])[:, POS, HEAD]
    queries = attention.turn_q(base.values["q", LAYER], wiring)[:, POS:, HEAD]
    score = torch.einsum("bqd,bd->bq", queries, change) * wiring.scale
    g = (base.values["pattern", LAYER][:, HEAD, POS:, POS] * score.expm1())[..., None]
    z = base.values["z", LAYER][:, POS:, HEAD]
    return z + g / (1 + g) * (base.values["v", LAYER][:, None, POS, HEAD] - z)


@pytest.mark.parametrize("host", [h for h in HOSTS if not h.processed], ids=case_id)
def test_the_engine_is_the_closed_form(host: Host) -> None:
    model = host.fresh()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that scores differ enough to matter
    with splice(model, Kind("relu").build(model), error="keep") as spliced:
        base, source = capture(spliced, tokens(seed=1)), capture(spliced, tokens(seed=2))
        found, expected = engine(base, source), closed_form(base, source)
        broken = closed_form(base, source, W_K_times=torch.linspace(0.5, 1.5, 10))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert (found - base.values["z", LAYER][:, POS:, HEAD]).abs().max() > 1e-2
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found, broken, atol=2e-5, rtol=1e-4)
