"""The run on a prompt that a graph is made of, checked before and after."""

from typing import Any

from tl_transcoders.circuits.one_prompt import Prompt as Prompt
from tl_transcoders.circuits.one_prompt import run_of_one
from tl_transcoders.errors import ShapeError, SpliceError
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run


def run_of(spliced: Spliced, prompt: Prompt) -> Run:
    """The run on a prompt of two tokens or more, on which features are active."""
    run = run_of_one(spliced, prompt, "attribution_graph")
    if run.shape[1] < 2:
        raise ShapeError(
            "attribution_graph, prompt",
            got="a prompt of one token",
            expected="two tokens or more",
            do="Write a longer prompt: a single token has nothing before it.",
        )
    features = [run.values["features", layer].values for layer in run.model.swaps]
    if not any(bool((values != 0).any()) for values in features):
        raise SpliceError(
            "attribution_graph",
            got="no active feature in any layer",
            expected="at least one",
            do="Check that the transcoders fit this model (tlt.check) and that not all positions are excluded.",
        )
    return run


def words_of(spliced: Spliced, run: Run) -> tuple[str, ...]:
    """The text of every token; its id where the model has no tokenizer."""
    tokenizer: Any = spliced.host.tokenizer
    ids = run.tokens[0].tolist()
    return tuple(str(i) if tokenizer is None else tokenizer.decode([i]) for i in ids)
