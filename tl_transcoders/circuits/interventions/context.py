"""Edits that last as long as a context: for one's own runs, and for `model.generate`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from tl_transcoders.circuits.checks import check_spliced
from tl_transcoders.circuits.edits import Edit, edited_positions
from tl_transcoders.circuits.interventions.checks import check_editable
from tl_transcoders.circuits.interventions.live import editing, live_sources
from tl_transcoders.circuits.interventions.sources import read_sources
from tl_transcoders.circuits.interventions.steps import Step, common_strengths
from tl_transcoders.circuits.nodes import Node
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced


@contextmanager
def intervening(spliced: Spliced, edits: Mapping[Node, Edit]) -> Iterator[Spliced]:
    """A context in which every forward pass of the model runs with these edits, `model.generate` included.

    Positions count from the start of the sequence, also while a key-value cache hands the model one token at a
    time; a node without a position is edited everywhere, `Scale(2.0, at=slice(5, None))` from position 5 on.
    A `Patch` ends where its source ends, a `Mean` at each position where its data set does. The user's hooks stay as they are.

    **Raises:** ConfigError, ShapeError or SpliceError where an edit does not fit; on leaving, HookNeverFiredError
    where one never changed anything.

    ```python
    with tlt.intervening(spliced, {tlt.Feature(5, 1207): tlt.Set(8.0, at=slice(5, None))}):
        model.generate(prompt, max_new_tokens=20)
    ```
    """
    check_spliced(spliced)
    checked = {check_editable(spliced, node, edit): edit for node, edit in edits.items()}
    positions = {node: edited_positions(node, edit, None) for node, edit in checked.items()}
    known = read_sources(spliced, checked, partial(live_sources, spliced), None)
    steps = [Step(n, edit, positions[n], known.get(n)) for n, edit in checked.items()]
    strengths = common_strengths(steps)
    if strengths is not None:
        raise ConfigError(
            "intervening",
            got=f"{strengths} strengths",
            expected="one value for each node",
            do="Use one context for each strength, or tlt.intervene.",
        )
    with editing(spliced, steps) as reached:
        yield spliced
    reached.check(steps)
