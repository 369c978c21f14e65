"""The pipeline of sparse feature circuits, on a model whose circuit is known and on the demo model."""

import pytest
import torch

import tl_transcoders as tlt
from tests.cases import case_id
from tests.circuits.truth import Truth
from tests.circuits.truths import TRUTHS
from tl_transcoders.circuits import SparseFeatureCircuit, sparse_feature_circuit
from tl_transcoders.circuits.nodes import Embed, Feature, Head, Logits
from tl_transcoders.demo import greater_than_score, load_model, load_transcoders, prompt_tokens
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import splice

CHAINS = [case for case in TRUTHS if case[0].name == "A-linear-chain"]


@pytest.mark.parametrize(("truth", "host"), CHAINS, ids=case_id)
@pytest.mark.parametrize("by_position", [False, True])
def test_the_known_circuit_is_found(truth: Truth, host: str, by_position: bool) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        found = sparse_feature_circuit(
            spliced, truth.base_tokens, truth.source_tokens, metric=truth.metric, nodes=1.0, edges=1.0,
            by_position=by_position,
        )  # fmt: skip
    names = {tlt.circuits.write_node(node).split("@")[0] for node in found.circuit.nodes}
    assert names >= {"f0.0", "a1.h0", "f1.0", "e1"}
    decoys = {text for text, effect in truth.effects.items() if effect == 0}
    assert not names & decoys
    assert any(isinstance(v, Logits) for _, v in found.circuit.edges)
    assert found.faithfulness.faithfulness == pytest.approx(1)
    assert found.faithfulness.completeness == pytest.approx(0, abs=1e-9)


def test_few_features_and_heads_of_the_demo_model_are_faithful() -> None:
    tokens, years = prompt_tokens()
    chosen = torch.arange(20, 90, 12)
    base, source = tokens[chosen], tokens[:1].expand(len(chosen), -1).contiguous()
    model = load_model()
    with splice(model, load_transcoders("skip"), error="keep") as spliced:
        found = sparse_feature_circuit(
            spliced, base, source, metric=lambda logits: greater_than_score(logits[:, -1], years[chosen]),
            nodes=0.003, edges=0.005, method=tlt.IntegratedGradients(10), errors="keep",
        )  # fmt: skip
    assert_small_and_faithful(
        found, spliced_features=sum(s.cfg.n_features for s in load_transcoders("skip").values())
    )
    kinds = {type(node) for edge in found.circuit.edges for node in edge}
    assert kinds >= {Head, Feature, Embed, Logits}


def assert_small_and_faithful(found: SparseFeatureCircuit, *, spliced_features: int) -> None:
    features = [node for node in found.circuit.nodes if isinstance(node, Feature)]
    assert 0 < len(features) < 0.1 * spliced_features
    assert found.faithfulness.faithfulness > 0.7
    assert abs(found.faithfulness.completeness) < 0.3
    assert not found.faithfulness.degenerate


@pytest.mark.parametrize("wrong", [{"nodes": 0.0}, {"nodes": 1.0, "edges": -1.0}], ids=str)
def test_thresholds_are_positive(wrong: dict[str, float]) -> None:
    tokens, _ = prompt_tokens()
    with (
        splice(load_model(), load_transcoders("skip")) as spliced,
        pytest.raises(ConfigError, match="expected a positive number"),
    ):
        sparse_feature_circuit(spliced, tokens[:2], metric=lambda logits: logits[:, -1, 0], **wrong)
