"""TransformerLens' own tools and EAP-IG's algorithm find the same, where they run: heads of models they accept."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from tests.cases import HAS_HOOKED_TRANSFORMER, HOSTS, Host, Kind, case_id, tokens
from tl_transcoders.circuits import Embed, Logits, write_node
from tl_transcoders.circuits.attribution import Attribution, attribute
from tl_transcoders.circuits.nodes import Head, Mlp
from tl_transcoders.splice import splice
from tl_transcoders.transcoders import TopK

BASE, SOURCE = tokens(seed=1), tokens(seed=2)
ONE_LAYER = Kind("one-layer", TopK(5), layers=(1,))
LIVE = tlt.Freeze(errors="live")
on_4 = pytest.mark.skipif(
    HAS_HOOKED_TRANSFORMER, reason="transformer-lens 3.9 lacks these tools; 4.3 has them"
)
on_3 = pytest.mark.skipif(
    not HAS_HOOKED_TRANSFORMER, reason="EAP-IG's hooks are those of HookedTransformer, gone from 4"
)


def last(logits: Tensor) -> Tensor:
    return logits[:, -1, 5] - logits[:, -1, 9]


def gpt2() -> Any:
    return Host("gpt2", "bridge", False).build()


@on_4
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_direct_paths_between_heads(part: str) -> None:
    from transformer_lens.patching import get_act_patch_direct_path

    model: Any = gpt2()
    _, source = model.run_with_cache(SOURCE)
    logits, base = model.run_with_cache(BASE)
    with torch.no_grad():
        theirs = get_act_patch_direct_path(
            model, BASE, source, base, lambda logits: last(logits).mean(), 0, 1, part, verbose=False
        )
    with splice(model, ONE_LAYER.build(model), error="keep") as spliced:
        for layer in (1, 2):
            for head in range(model.cfg.n_heads):
                ours = tlt.path_patch(
                    spliced, BASE, SOURCE, senders=["a0.h1"], receivers=[f"a{layer}.h{head}<{part}>"], metric=last,
                    freeze=LIVE,
                )  # fmt: skip
                expected = theirs[layer, head] - last(logits).mean()
                torch.testing.assert_close(ours.effect.mean(), expected, atol=2e-6, rtol=1e-3)


def found(model: Any, **options: Any) -> Attribution:
    with splice(model, ONE_LAYER.build(model), error="keep") as spliced:
        return attribute(
            spliced,
            BASE,
            SOURCE,
            metric=last,
            level="edge",
            errors="live",
            max_edges=None,
            **options,
        )


@on_4
def test_attribution_patching_of_heads() -> None:
    from transformer_lens.tools.analysis import attribution_patching as peer

    model: Any = gpt2()
    config = peer.EdgeAttributionConfig(granularity="edge")
    theirs = peer.attribution_patch(model, SOURCE, BASE, lambda logits: last(logits).sum(), config)
    ours = found(model, by_position=True)
    assert_edges_agree(
        ours, {(_named(u), _named(v)): x for (u, v), x in theirs.edge_scores.items()}, least=40
    )


@on_4
def test_a_changed_head_is_noticed() -> None:
    from transformer_lens.tools.analysis import attribution_patching as peer

    model: Any = Host("gpt2", "bridge", False).fresh()
    config = peer.EdgeAttributionConfig(granularity="edge")
    theirs = peer.attribution_patch(model, SOURCE, BASE, lambda logits: last(logits).sum(), config)
    with torch.no_grad():
        model.blocks[0].attn.W_O.mul_(1.3)
    edges = {(_named(u), _named(v)): x for (u, v), x in theirs.edge_scores.items()}
    with pytest.raises(AssertionError):
        assert_edges_agree(found(model, by_position=True), edges, least=40)


HOOKED = [
    host
    for host in HOSTS
    if host.kind == "hooked" and not host.processed and host.architecture != "gemma3"
]


@on_3
@pytest.mark.cases
@pytest.mark.parametrize("host", HOOKED, ids=case_id)
def test_edges_of_heads_as_eap_ig_scores_them(host: Host) -> None:
    from benchmarks.eap import Eap

    model = host.build()
    peer = Eap(model, BASE, SOURCE, last)
    scores = peer.scores() / len(BASE)
    edges = {
        (u, v): float(scores[i, j])
        for i, u in enumerate(peer.writers)
        for j, v in enumerate(peer.readers)
    }
    assert_edges_agree(found(model), edges, least=30)


def assert_edges_agree(
    ours: Attribution, theirs: dict[tuple[str, str], float], *, least: int
) -> None:
    """All edges that both have names for, of which there are at least so many."""
    close = 1e-4 * max(map(abs, theirs.values()))
    compared = 0
    for (u, v), effect in ours.edges.top(len(ours.edges)):
        edge = write_node(u), write_node(v)
        if all(isinstance(node, Embed | Head | Mlp | Logits) for node in (u, v)) and edge in theirs:
            assert theirs[edge] == pytest.approx(effect, abs=close), edge
            compared += 1
    assert compared >= least


def _named(node: Any) -> str:
    """A node of TransformerLens in our grammar."""
    name = {
        "embed": "embed",
        "logits": "logits",
        "attn_head_out": f"a{node.layer}.h{node.head}",
        "mlp_out": f"m{node.layer}",
        "mlp_in": f"m{node.layer}",
        "q_input": f"a{node.layer}.h{node.head}<q>",
        "k_input": f"a{node.layer}.h{node.head}<k>",
        "v_input": f"a{node.layer}.h{node.head}<v>",
    }[node.kind]
    return f"{name}@{node.position}"
