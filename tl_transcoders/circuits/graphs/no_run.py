"""Why a graph has no run, told to whoever needs one."""

from typing import Final, Literal

from tl_transcoders.errors import ConfigError
from tl_transcoders.splice.trace.run import Run

NoRun = Literal["linear", "file", "given up"]
REASONS: Final[dict[NoRun, tuple[str, str]]] = {
    "linear": (
        'a graph with the linear MLPs of unspliced="linear", which this would hold constant',
        'Make the graph with unspliced="constant", or with a transcoder for every MLP.',
    ),
    "file": (
        "a graph from a file, which holds no run",
        "Make the graph again with attribution_graph.",
    ),
    "given up": (
        "a graph whose run without_run gave up",
        "Ask the graph that without_run was called on, or make it again with attribution_graph.",
    ),
}


def check_run(what: str, run: Run | None, why: NoRun) -> Run:
    """The run; raises ConfigError that says why there is none."""
    if run is None:
        got, do = REASONS[why]
        raise ConfigError(what, got=got, expected="a graph with the run it was made from", do=do)
    return run
