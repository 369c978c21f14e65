"""Graphs of one run that share their rows."""

from collections.abc import Sequence
from typing import Final, final

import torch

from tl_transcoders.circuits.graphs.assemble import assemble
from tl_transcoders.circuits.graphs.bent import Unspliced
from tl_transcoders.circuits.graphs.circuitry import Circuitry
from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.circuits.graphs.outcomes import Outcomes, Target, TopTokens
from tl_transcoders.circuits.graphs.prompts import Prompt, run_of, words_of
from tl_transcoders.circuits.graphs.sweep import Sweeper
from tl_transcoders.circuits.graphs.trace import trace
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced

TOP: Final = TopTokens()
DTYPES: Final = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@final
class Tracer:
    """Makes attribution graphs of one run; a row that one of them needed is not computed again for the next.

    Rows of features depend neither on the targets nor on the budget, so that other targets or a longer budget cost
    what is new alone. The graphs are those `attribution_graph` makes, to rounding.

    ```python
    tracer = tlt.circuits.graphs.Tracer(spliced, "The capital of France is")
    few = tracer.graph(max_features=100)
    more = tracer.graph(max_features=1000)
    other = tracer.graph(targets=[(" Paris", " Rome")], max_features=1000)
    ```

    **Raises:** as `attribution_graph`.
    """

    @torch.no_grad()
    def __init__(
        self,
        spliced: Spliced,
        prompt: Prompt,
        *,
        memory: int = 1 << 30,
        dtype: torch.dtype | None = None,
        unspliced: Unspliced = "constant",
    ) -> None:
        check_sizes("attribution_graph", memory=memory)
        _check_options(dtype, unspliced)
        run = run_of(spliced, prompt)
        frame = Frame.of(run)
        self._run, self._words = run, words_of(spliced, run)
        self._sweeper = Sweeper(Circuitry.of(frame, dtype or frame.dtype, unspliced), memory)

    @property
    def rows(self) -> int:
        """How many rows were computed by now."""
        return self._sweeper.computed

    @torch.no_grad()
    def graph(
        self,
        *,
        targets: TopTokens | Sequence[Target] = TOP,
        max_features: int | None = None,
        per_update: int = 2048,
    ) -> Graph:
        """The graph of some targets; arguments as of `attribution_graph`."""
        check_sizes("attribution_graph", max_features=max_features, per_update=per_update)
        outcomes = Outcomes.of(self._run, targets)
        number = self._sweeper.number(NodeTable.of(outcomes.nodes, self._run.model.n_layers))
        chosen = trace(
            self._sweeper,
            number,
            outcomes.weight,
            max_features=max_features,
            per_update=per_update,
        )
        return assemble(self._sweeper, chosen, outcomes, self._words)


def _check_options(dtype: torch.dtype | None, unspliced: str) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(
            "attribution_graph, dtype",
            got=str(dtype),
            expected=", ".join(map(str, DTYPES)),
            do="Leave it out for the dtype of the run.",
        )
    if unspliced not in ("constant", "linear"):
        raise ConfigError(
            "attribution_graph, unspliced",
            got=repr(unspliced),
            expected='"constant" or "linear"',
            do="Leave it out for constant MLPs.",
        )
