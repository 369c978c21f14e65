"""The pipeline of sparse feature circuits, on a model whose circuit is known and on the demo model."""

import pytest

import tl_transcoders as tlt
from tests.cases import case_id
from tests.circuits.truth import Truth
from tests.circuits.truths import TRUTHS
from tl_transcoders.circuits import sparse_feature_circuit
from tl_transcoders.circuits.nodes import Logits
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
