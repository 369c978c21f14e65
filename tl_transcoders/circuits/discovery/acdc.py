"""Discovery by ablating one edge after the other, from the logits back."""

from collections.abc import Iterable
from itertools import accumulate
from typing import Final, final

import torch
from tqdm.auto import tqdm

from tl_transcoders.circuits.ablation.ablations import Ablation, Resample
from tl_transcoders.circuits.ablation.free import Given
from tl_transcoders.circuits.ablation.plan import inputs
from tl_transcoders.circuits.ablation.remainders import Remainders
from tl_transcoders.circuits.ablation.setting import (
    Errors,
    Prompts,
    Setting,
    check_circuit,
    normal_circuit,
    setting_of,
)
from tl_transcoders.circuits.checks import depth
from tl_transcoders.circuits.circuit import Circuit
from tl_transcoders.circuits.metrics import Metric
from tl_transcoders.circuits.nodes import Edge, Logits, Node, at, write_node
from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts import quiet
from tl_transcoders.splice import Spliced

AT_ONCE: Final = 8
"""How many edges are tried in one pass."""


def acdc(
    spliced: Spliced,
    circuit: Circuit,
    base: Prompts,
    source: Prompts | None = None,
    *,
    metric: Metric,
    threshold: float,
    ablation: Ablation = Resample(),
    errors: Errors = "node",
    given: Given = (),
    progress: bool = True,
) -> Circuit:
    """The edges of a circuit that its metric needs, each with the effect of ablating it as its score.

        remove u → v  if  mean over prompts |m(rest without u → v) − m(rest)| < threshold

    Receivers are taken from the logits back, and of each receiver the latest sender first; what is removed stays so.
    Every edge outside `circuit` is ablated from the start, so it has to hold all that may matter. Edges into a node that
    no remaining edge leaves go with it. Some edges that are kept may hang on senders that lost their own: `prune` them.

    **Arguments:** as `faithfulness`; `threshold`, in units of the metric, such as `KLDivergence` or a logit difference;
    `progress` shows a bar.

    **Raises:** as `faithfulness`; ConfigError for a circuit without edges or a threshold that is not positive.

    Source: Conmy et al. 2023, Towards Automated Circuit Discovery, section 3.

    ```python
    found = acdc(spliced, candidates, base, source, metric=metric, threshold=0.05)
    ```
    """
    _check(circuit, threshold)
    setting = setting_of(
        spliced, base, source, metric=metric, ablation=ablation, errors=errors, given=given
    )
    with torch.no_grad(), quiet(spliced.host):
        edges = normal_circuit(circuit, setting).edges
        return Pruning(setting, edges, threshold).finish(progress=progress)


@final
class Pruning:
    """The edges that remain while one after the other is tried."""

    def __init__(self, setting: Setting, edges: frozenset[Edge], threshold: float) -> None:
        self.setting, self.threshold = setting, threshold
        self.left, self.model = Remainders(setting, "edge"), setting.run.model
        self.kept, self.scores = set(edges), dict[Node | Edge, float]()
        self.value = self.left.with_edges([self.kept])[0]

    def finish(self, *, progress: bool) -> Circuit:
        """Try every edge."""
        receivers = sorted({edge[1] for edge in self.kept}, key=self._late_first)
        for receiver in tqdm(receivers, disable=not progress, desc="acdc"):
            incoming = [edge for edge in self.kept if edge[1] == receiver]
            if self._leads_on(receiver):
                self._try_all(sorted(incoming, key=lambda edge: self._late_first(edge[0])))
            else:
                self.kept.difference_update(incoming)
        return Circuit(edges=self.kept, scores=self.scores)

    def _try_all(self, edges: list[Edge]) -> None:
        """Remove edges in order; of those tried together, each is tried without all before it."""
        while edges:
            tried = edges[:AT_ONCE]
            without = [self.kept.difference(some) for some in accumulate([e] for e in tried)]
            values = self.left.with_edges(without)
            for edge, value in zip(tried, values, strict=True):
                edges.pop(0)
                change = value - self.value
                if float(change.abs().mean()) >= self.threshold:
                    self.scores[edge] = float(change.mean())
                    break  # the rest was tried without this edge, which stays
                self.kept.remove(edge)
                self.value = value

    def _leads_on(self, receiver: Node) -> bool:
        """Whether anything may still read what comes of a receiver."""
        if isinstance(receiver, Logits) or self.setting.free:
            return True
        read = self._inputs(at(sender, None) for sender, _ in self.kept)
        return not read.isdisjoint(self._inputs([at(receiver, None)]))

    def _inputs(self, nodes: Iterable[Node]) -> set[object]:
        return {reader for node in nodes for reader in inputs(node, self.model)}

    def _late_first(self, node: Node) -> tuple[float, str]:
        return -depth(node, self.model), write_node(node)


def _check(circuit: Circuit, threshold: float) -> None:
    check_circuit(circuit)
    if not circuit.edges:
        raise ConfigError(
            "acdc",
            got="a circuit without edges",
            expected="the edges that may be needed",
            do="Take those that attribution or path patching finds, with a low threshold.",
        )
    if not threshold > 0:
        raise ConfigError(
            "threshold", got=repr(threshold), expected="a number above 0", do="Choose another one."
        )
