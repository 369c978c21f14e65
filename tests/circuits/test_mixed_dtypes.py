"""Transcoders of another dtype than the model: float64 ones find the same, and a bfloat16 model runs with float32 ones."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from tests.cases import Host, Kind, case_id, tokens
from tl_transcoders.circuits import (
    Circuit,
    Error,
    Feature,
    Head,
    acdc,
    curve,
    faithfulness,
    sparse_feature_circuit,
)
from tl_transcoders.circuits.attribution import (
    AttributionPatching,
    IntegratedGradients,
    attribute,
)
from tl_transcoders.circuits.graphs import attribution_graph
from tl_transcoders.circuits.patching import ActiveFeatures, AllHeads, sweep
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.transcoders import ReLU, TranscoderSet

BASE, SOURCE = tokens(seed=1), tokens(seed=2)
SAE = Kind("sae", ReLU(), read="resid_post", write="resid_post", layers=(1,))
KINDS = [
    Kind("skip", ReLU(), skip=True),
    pytest.param(Kind("clt", ReLU(), skip=True, cross_layer=True), marks=pytest.mark.slow),
    pytest.param(SAE, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def rough() -> Any:
    return Host("gpt2", "bridge", False).fresh().to(torch.bfloat16)


def last(logits: Tensor) -> Tensor:
    return logits[:, -1, 3].float() - logits[:, -1, 4].float()


def patched(spliced: Spliced, **options: Any) -> Tensor:
    given = {"senders": ["f1.3", "e1"], "receivers": ["logits"]} | options
    return tlt.path_patch(spliced, BASE, SOURCE, metric=last, **given).effect


def attributed(spliced: Spliced, **options: Any) -> Tensor:
    found = attribute(spliced, BASE, SOURCE, metric=last, **options)
    effects = dict(zip(map(str, found.nodes.nodes), found.nodes.effects.mean(1), strict=True))
    return torch.stack([effects[name] for name in sorted(effects) if "Head" in name]).float()


def edges(spliced: Spliced, **options: Any) -> Tensor:
    found = attribute(spliced, BASE, SOURCE, metric=last, level="edge", max_edges=None, **options)
    return torch.tensor(sum(effect for _, effect in found.edges.top(len(found.edges))))


def circuit(spliced: Spliced) -> Circuit:
    return sparse_feature_circuit(
        spliced, BASE, SOURCE, metric=last, nodes=1e-3, edges=1e-3
    ).circuit


def measured(spliced: Spliced) -> Tensor:
    return faithfulness(
        spliced, Circuit([Feature(1, 3), Head(0, 1)]), BASE, SOURCE, metric=last
    ).circuit


def widened(transcoders: Any) -> Any:
    if isinstance(transcoders, TranscoderSet):
        return TranscoderSet({layer: widened(coder) for layer, coder in transcoders.items()})
    return deepcopy(transcoders).double()


ASKED: dict[str, Callable[[Spliced], Tensor]] = {
    "path patching": patched,
    "path patching, errors live": lambda s: patched(s, freeze=tlt.Freeze(errors="live")),
    "through a head": lambda s: patched(s, receivers=["a2.h1"]),
    "sweep": lambda s: (
        sweep(
            s,
            BASE,
            SOURCE,
            senders=[AllHeads(), ActiveFeatures()],
            receivers=["a2.h1"],
            metric=last,
        ).effects
    ),
    "gradients": attributed,
    "integrated": lambda s: attributed(s, method=IntegratedGradients(2)),
    "along activations": lambda s: attributed(s, method=IntegratedGradients(2, "activations")),
    "edges": edges,
    "edges, errors live": lambda s: edges(s, errors="live"),
    "edges, softmax": lambda s: edges(s, method=AttributionPatching(qk_fix=True)),
    "faithfulness": measured,
    "curve": lambda s: (
        curve(
            s,
            attribute(s, BASE, SOURCE, metric=last).circuit(),
            BASE,
            SOURCE,
            metric=last,
            sizes=(0, 1),
        ).circuits
    ),
    "intervene": lambda s: (
        tlt.intervene(
            s, BASE, {tlt.Feature(1, 3, 2): tlt.Set(2.0), Error(1): tlt.Scale(0.5)}
        ).logits
    ),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("kind", KINDS, ids=case_id)
def test_wider_transcoders_find_the_same(kind: Kind, name: str) -> None:
    model = Host("gpt2", "bridge", False).build()
    transcoders = kind.build(model)
    found = []
    for some in (transcoders, widened(transcoders)):
        with splice(model, some, error="keep") as spliced:
            found.append(ASKED[name](spliced).float())
    size = float(found[1].abs().max())
    assert size > 0
    torch.testing.assert_close(*found, rtol=0, atol=1e-3 * size + 1e-7)


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("kind", KINDS, ids=case_id)
def test_a_rough_model_has_answers(rough: Any, kind: Kind, name: str) -> None:
    with splice(rough, kind.build(rough), error="keep") as spliced:
        found = ASKED[name](spliced)
    assert found.isfinite().all()
    assert found.any()


@pytest.mark.parametrize("kind", KINDS, ids=case_id)
def test_circuits_and_graphs_are_found(rough: Any, kind: Kind) -> None:
    with splice(rough, kind.build(rough), error="keep") as spliced:
        found = circuit(spliced)
        assert found.edges
        assert not acdc(
            spliced, found, BASE, SOURCE, metric=last, threshold=1e9, progress=False
        ).edges
        if kind is not SAE:
            assert attribution_graph(spliced, BASE[:1]).gap < 0.05


@pytest.mark.parametrize("architecture", ["gpt2", "llama-gqa", "neox", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_graphs_of_every_precision(architecture: str, dtype: torch.dtype) -> None:
    model = Host(architecture, "bridge", False).fresh().to(dtype)
    with splice(model, KINDS[0].build(model), error="keep") as spliced:
        assert attribution_graph(spliced, BASE[:1]).gap < (1e-6 if dtype == torch.float64 else 0.02)
