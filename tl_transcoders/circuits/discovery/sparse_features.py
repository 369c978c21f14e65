"""Sparse feature circuits: features, errors and heads above a threshold, the edges between them, how faithful they are."""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Final, final

from tl_transcoders.circuits.ablation.ablations import Ablation, Resample, Zero
from tl_transcoders.circuits.ablation.faithfulness import Faithfulness, faithfulness
from tl_transcoders.circuits.ablation.free import Given
from tl_transcoders.circuits.ablation.setting import Errors, Prompts
from tl_transcoders.circuits.attribution import (
    Attribution,
    AttributionPatching,
    IntegratedGradients,
    attribute,
)
from tl_transcoders.circuits.attribution.methods import Method
from tl_transcoders.circuits.circuit import Circuit
from tl_transcoders.circuits.metrics import Metric
from tl_transcoders.circuits.nodes import Edge, Embed, Head, Logits, Node
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import as_run

AT_BASE: Final = AttributionPatching()
ALONG_ACTIVATIONS: Final = IntegratedGradients(10, over="activations")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SparseFeatureCircuit:
    """A circuit whose nodes and edges carry their effects, the effects of all nodes, and how faithful it is.

    `faithfulness` is that of the circuit's nodes; edges tell how they are connected.
    """

    circuit: Circuit
    attribution: Attribution
    faithfulness: Faithfulness


def sparse_feature_circuit(
    spliced: Spliced,
    base: Prompts,
    source: Prompts | None = None,
    *,
    metric: Metric,
    nodes: float,
    edges: float | None = None,
    method: Method = ALONG_ACTIVATIONS,
    by_position: bool = False,
    ablation: Ablation | None = None,
    errors: Errors = "node",
    given: Given = (),
) -> SparseFeatureCircuit:
    """The nodes whose mean effect is at least `nodes` in size, and how much of the metric they keep.

        node n:      |(n_source − n_base) · mean ∂m/∂n|                 ≥ nodes
        edge u → v:  |(w_u,source − w_u,base) · ∂m/∂(what v reads)|    ≥ edges, at the base run, between such nodes

    Features of transcoders or SAEs, errors, heads and MLPs that are not spliced stand side by side. Faithfulness never
    ablates the embedding.

    **Arguments:**

    - `base`, `source`: tokens `[batch pos]` of equal length, or `Run`s; without a source, nodes go to zero.
    - `nodes`, `edges`: thresholds in units of the metric; without `edges` none are looked for.
    - `method`: how nodes are scored; by default integrated gradients over what one layer writes after another.
    - `ablation`, `errors`, `given`: as in `faithfulness`; by default the complement takes its values in the source
      run, or zero where there is none.

    **Raises:** as `attribute` and `faithfulness`; ConfigError for a threshold that is not positive.

    Source: Marks et al. 2024, Sparse Feature Circuits.

    ```python
    with tlt.splice(model, transcoders, error="keep") as spliced:
        found = sparse_feature_circuit(spliced, base, source, metric=metric, nodes=0.05, edges=0.02)
    print(len(found.circuit.nodes), found.faithfulness.faithfulness)
    ```
    """
    for name, threshold in (("nodes", nodes), ("edges", edges)):
        if threshold is not None and not (threshold > 0 and isfinite(threshold)):
            raise ConfigError(
                f"sparse_feature_circuit, {name}",
                got=f"a threshold of {threshold}",
                expected="a positive number, in units of the metric",
                do="Look at attribute(...).nodes.top() for the size of effects.",
            )
    runs = as_run(spliced, base), None if source is None else as_run(spliced, source)
    found = attribute(spliced, *runs, metric=metric, method=method, by_position=by_position)
    circuit = _of_nodes(found, nodes)
    measured = faithfulness(
        spliced,
        circuit,
        *runs,
        metric=metric,
        ablation=ablation or (Zero() if source is None else Resample()),
        errors=errors,
        given=[*given, "embed"],
    )
    if edges is not None:
        at_base = attribute(
            spliced, *runs, metric=metric, method=AT_BASE, level="edge", by_position=by_position, max_edges=None
        )  # fmt: skip
        circuit = circuit | _of_edges(at_base, circuit, edges)
    return SparseFeatureCircuit(circuit=circuit, attribution=found, faithfulness=measured)


def _of_nodes(found: Attribution, least: float) -> Circuit:
    """What writes and has an effect of that size."""
    means = found.nodes.effects.mean(1).tolist()
    kept: dict[Node | Edge, float] = {
        node: effect
        for node, effect in zip(found.nodes.nodes, means, strict=True)
        if abs(effect) >= least and _writes(node)
    }
    return Circuit((node for node in found.nodes.nodes if node in kept), scores=kept)


def _of_edges(found: Attribution, circuit: Circuit, least: float) -> Circuit:
    """The edges of that size between nodes of a circuit, the embedding and the logits."""
    kept: dict[Node | Edge, float] = {
        edge: effect
        for edge, effect in found.edges.top(len(found.edges))
        if abs(effect) >= least and all(_belongs(node, circuit) for node in edge)
    }
    return Circuit(edges=(edge for edge in kept if isinstance(edge, tuple)), scores=kept)


def _writes(node: Node) -> bool:
    return not (isinstance(node, Head) and node.reader)


def _belongs(node: Node, circuit: Circuit) -> bool:
    if isinstance(node, Head):
        node = replace(node, reader=None)
    return isinstance(node, Embed | Logits) or node in circuit.nodes
