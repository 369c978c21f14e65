"""The metric of what remains of a model."""

from collections.abc import Iterable, Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.ablation.by_edges import measure_edges
from tl_transcoders.circuits.ablation.by_nodes import emptied, masks_of, measure_nodes
from tl_transcoders.circuits.ablation.plan import plan_of
from tl_transcoders.circuits.ablation.setting import Level, Setting, normal_circuit
from tl_transcoders.circuits.circuit import Circuit
from tl_transcoders.circuits.nodes import Edge
from tl_transcoders.circuits.read_metric import read_metric


@final
class Remainders:
    """The metric with parts of a model ablated, in one setting and at one level."""

    def __init__(self, setting: Setting, level: Level) -> None:
        self.setting, self.level = setting, level
        self._empty = emptied(setting) if level == "edge" else None

    def with_only(self, circuit: Circuit) -> Float[Tensor, " batch"]:
        """Everything outside the circuit ablated."""
        return self._measure(circuit, complement=False)

    def without(self, circuit: Circuit) -> Float[Tensor, " batch"]:
        """The circuit ablated."""
        return self._measure(circuit, complement=True)

    def with_edges(self, variants: Sequence[Iterable[Edge]]) -> Float[Tensor, "variant batch"]:
        """All edges but those of each variant ablated, in one pass; positions are counted from the start."""
        assert self._empty is not None
        return measure_edges(self.setting, self._empty, plan_of(self.setting, variants))

    def whole(self) -> Float[Tensor, " batch"]:
        """Nothing ablated."""
        run = self.setting.run
        return read_metric(run, self.setting.metric, run.resid_final, run.all_rows)

    def _measure(self, circuit: Circuit, *, complement: bool) -> Float[Tensor, " batch"]:
        circuit = normal_circuit(circuit, self.setting)
        if self._empty is None:
            masks = masks_of(self.setting, circuit, complement=complement)
            return measure_nodes(self.setting, masks)
        plan = plan_of(self.setting, [circuit.edges], complement=complement)
        return measure_edges(self.setting, self._empty, plan)[0]
