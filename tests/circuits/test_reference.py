"""The slow path patching, on models whose edges are known and against laws on random ones."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import HOSTS, Host, Kind, case_id, only_in_the_whole_table, tokens
from tests.circuits.truth import Truth, ends_of
from tests.circuits.truths import TRUTHS
from tl_transcoders.circuits.nodes import Embed, Error, Feature, Head, KeyValue, Logits, Mlp, Node
from tl_transcoders.circuits.patching import path_patch
from tl_transcoders.circuits.reference import live_path_patch
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.transcoders import TopK

pytestmark = [pytest.mark.slow, only_in_the_whole_table]
every_truth = pytest.mark.parametrize(("truth", "host"), TRUTHS, ids=case_id)
random_hosts = pytest.mark.parametrize("host", HOSTS, ids=case_id)
KINDS = [Kind("topk-skip", TopK(5), skip=True), Kind("clt", TopK(5), cross_layer=True)]
CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}
ALL_WRITERS: list[Node] = [
    Embed(),
    *(Head(layer, head) for layer in range(3) for head in range(2)),
    *(Mlp(layer) for layer in range(3)),
]


def edge(truth: Truth, spliced: Spliced, text: str, freeze: Any) -> float:
    senders, receiver = ends_of(text)
    effect = live_path_patch(
        spliced,
        truth.base_tokens,
        truth.source_tokens,
        senders,
        [receiver],
        truth.metric,
        freeze=freeze,
        errors="live",
    )
    return float(effect)


@every_truth
def test_every_edge_is_found(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        found = {text: edge(truth, spliced, text, "edge") for text in truth.edges}
    assert found == {t: pytest.approx(v, abs=1e-10, rel=1e-12) for t, v in truth.edges.items()}


@every_truth
def test_linear_edges_differ_where_theory_says(truth: Truth, host: str) -> None:
    expected = dict(truth.edges) | dict(truth.linear)
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        found = {text: edge(truth, spliced, text, "linear") for text in expected}
    assert found == {t: pytest.approx(v, abs=1e-10, rel=1e-12) for t, v in expected.items()}


def last(logits: Tensor) -> Tensor:
    return logits[:, -1, 5] - logits[:, -1, 9]


@random_hosts
@pytest.mark.parametrize("kind", KINDS, ids=case_id)
@pytest.mark.parametrize("freeze", ["edge", "wang"])
def test_all_writers_into_the_logits_are_the_source_run(
    host: Host, kind: Kind, freeze: Any
) -> None:
    model = host.build()
    base, source = tokens(seed=1), tokens(seed=2)
    with splice(model, kind.build(model), error="keep") as spliced:
        effect = live_path_patch(
            spliced, base, source, ALL_WRITERS, [Logits()], last, freeze=freeze
        )
        with torch.no_grad():
            total = last(model(source)) - last(model(base))
    torch.testing.assert_close(effect, total, **CLOSE)


@random_hosts
@pytest.mark.parametrize("freeze", ["edge", "wang", "linear"])
def test_a_source_that_is_the_base_does_nothing(host: Host, freeze: Any) -> None:
    model = host.build()
    receivers: list[Node] = [Head(2, 1, "q"), Head(2, 0, "k"), Feature(2, 3), Error(1), Logits(-1)]
    with splice(model, KINDS[0].build(model), error="keep") as spliced:
        effect = live_path_patch(
            spliced, tokens(), tokens(), ALL_WRITERS, receivers, last, freeze=freeze
        )
    torch.testing.assert_close(effect, torch.zeros_like(effect), atol=1e-4, rtol=0)


@random_hosts
def test_wang_with_live_errors_is_wang_on_the_model_itself(host: Host) -> None:
    model = host.build()
    base, source = tokens(seed=1), tokens(seed=2)
    z, attention = "blocks.0.attn.hook_z", [f"blocks.{i}.attn.hook_z" for i in range(3)]
    v = "blocks.2.attn.hook_v"

    def always(value: Tensor) -> Any:
        return lambda _, hook: value

    with torch.no_grad():
        before, ours = model.run_with_cache(base)
        _, theirs = model.run_with_cache(source)
        sent = ours[z].clone()
        split = (*base.shape, 2, -1)
        sent.view(split)[:, :, 1] = theirs[z].view(split)[:, :, 1]
        frozen = [(name, always(ours[name])) for name in attention[1:]] + [(z, always(sent))]
        kept: list[Tensor] = []
        model.run_with_hooks(base, fwd_hooks=[*frozen, (v, lambda t, hook: kept.append(t.clone()))])
        after = model.run_with_hooks(base, fwd_hooks=[(v, always(kept[0]))], return_type="logits")
        with splice(model, KINDS[0].build(model), error="keep") as spliced:
            groups = model.cfg.n_key_value_heads or 2
            receivers: list[Node] = [KeyValue(2, group, "v") for group in range(groups)]
            slow = live_path_patch(
                spliced, base, source, [Head(0, 1)], receivers, last, freeze="wang"
            )
            fast = path_patch(
                spliced,
                base,
                source,
                senders=[Head(0, 1)],
                receivers=receivers,
                metric=last,
                freeze="wang",
            ).effect
    for found in (slow, fast):
        torch.testing.assert_close(found, last(after) - last(before), atol=2e-6, rtol=1e-3)
    assert slow.abs().max() > 1e-5


@pytest.mark.parametrize(
    "host", [h for h in HOSTS if h.architecture in ("llama-gqa", "gemma3")], ids=case_id
)
@pytest.mark.parametrize("reader", ["k", "v"])
def test_every_head_of_a_group_together_is_the_group(host: Host, reader: Any) -> None:
    model = host.build()
    base, source = tokens(seed=1), tokens(seed=2)
    with splice(model, KINDS[0].build(model), error="keep") as spliced:

        def effect(*receivers: Node) -> Tensor:
            return live_path_patch(spliced, base, source, [Embed()], receivers, last)

        group = effect(KeyValue(2, 0, reader, 3))
        heads = effect(Head(2, 0, reader, 3), Head(2, 1, reader, 3))
        alone = effect(Head(2, 0, reader, 3))
    torch.testing.assert_close(heads, group, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(alone, group, atol=1e-6)


@pytest.mark.parametrize(
    ("senders", "receivers", "message"),
    [
        ([Head(0, 1, "q")], [Logits()], r"a0\.h1<q>: got a sender that only reads"),
        ([Embed()], [Head(0, 1)], r"a0\.h1: got a receiver that reads nothing"),
    ],
)
def test_nodes_that_cannot_play_their_part_are_refused(
    senders: list[Node], receivers: list[Node], message: str
) -> None:
    model = HOSTS[0].build()
    with (
        splice(model, KINDS[0].build(model)) as spliced,
        pytest.raises(ConfigError, match=message),
    ):
        live_path_patch(spliced, tokens(), tokens(), senders, receivers, last)


def test_saes_are_refused() -> None:
    model = HOSTS[0].build()
    sae = Kind("sae", read="resid_pre", write="resid_pre").build(model)
    with (
        splice(model, sae) as spliced,
        pytest.raises(ConfigError, match=r"layer 0: got an SAE; expected transcoders only"),
    ):
        live_path_patch(spliced, tokens(), tokens(), [Embed()], [Logits()], last)
