"""What the tests of attention in graphs share."""

from typing import Any

import pytest
from torch import Tensor

from tests.cases import HOSTS, Host, Kind, tokens
from tests.circuits.truth import Truth
from tl_transcoders.circuits.graphs import Graph, Token
from tl_transcoders.circuits.nodes import Feature
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.splice.trace.run import Run
from tl_transcoders.transcoders import TopK

SKIP = Kind("topk-skip", TopK(5), skip=True)
CLT = Kind("clt-skip", TopK(5), skip=True, cross_layer=True)
PROMPT = tokens(1)
LAST = PROMPT.shape[1] - 1
TOKEN = Token(3, LAST)
QUICK = {"gpt2-bridge-raw", "llama-gqa-bridge-processed", "neox-bridge-raw", "gemma3-bridge-raw"}
"""Every architecture once; the other hosts are for make test-real."""
every_host = pytest.mark.parametrize(
    ("host", "kind"),
    [
        pytest.param(
            host,
            kind := (SKIP, CLT)[i % 2],
            id=f"{host}-{kind}",
            marks=() if str(host) in QUICK else pytest.mark.slow,
        )
        for i, host in enumerate(HOSTS)
    ],
)


def spliced_with(host: Host, kind: Kind = SKIP, **options: Any) -> Spliced:
    model = host.build()
    return splice(model, kind.build(model), **({"error": "keep"} | options))


def run_of(graph: Graph) -> Run:
    assert graph.run is not None
    return graph.run


def features(graph: Graph) -> list[Feature]:
    return [node for node in graph.nodes if isinstance(node, Feature)]


def edges_into(graph: Graph, target: Any) -> dict[Any, float]:
    here = graph.target == graph.number(target)
    ends = zip(graph.source[here].tolist(), graph.effect[here].tolist(), strict=True)
    return {graph.nodes[source]: effect for source, effect in ends}


def telling(truth: Truth) -> Tensor:
    """The prompt in which features are on, which in some models is the base."""
    off = truth.name in ("E-backup", "E-softmax-saturation")
    return truth.base_tokens if off else truth.source_tokens
