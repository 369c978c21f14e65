"""The run whose attention is to be explained, checked before anything is computed from it."""

from typing import Final

from tl_transcoders.circuits.nodes import Head
from tl_transcoders.circuits.one_prompt import Prompt, run_of_one
from tl_transcoders.errors import ConfigError, SpliceError
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run

SOFT_CAP: Final = "attn_scores_soft_cap"


def run_of(spliced: Spliced, prompt: Prompt, what: str) -> Run:
    """The run of one prompt.

    **Raises:** as `run_of_one`; SpliceError for soft-capped scores.
    """
    run = run_of_one(spliced, prompt, what)
    _check_scores(spliced, what)
    return run


def check_head(run: Run, head: Head, what: str, *, at: bool = False) -> None:
    """Raises ConfigError for what is no head of the model, or one at a position unless `at`."""
    n_heads = run.model.anatomy.blocks[0].attention.n_heads
    fits = (
        isinstance(head, Head)
        and head.reader is None
        and (at or head.pos is None)
        and type(head.layer) is type(head.head) is int
        and 0 <= head.layer < run.model.n_layers
        and 0 <= head.head < n_heads
    )
    if not fits:
        raise ConfigError(
            f"{what}, head",
            got=repr(head),
            expected=f"a head of layers 0 to {run.model.n_layers - 1}, 0 to {n_heads - 1}, without a reader"
            + ("" if at else " or position"),
            do="Write Head(3, 1).",
        )


def inside(run: Run, pos: int, what: str) -> int:
    """A position from the front; raises ConfigError for one outside the prompt."""
    length = run.shape[1]
    if isinstance(pos, bool) or not isinstance(pos, int) or not -length <= pos < length:
        raise ConfigError(
            what,
            got=f"position {pos!r}",
            expected=f"one of {length}",
            do="Choose a position of the prompt.",
        )
    return pos % length


def unseen(head: Head, query: int, key: int, what: str) -> ConfigError:
    """The error for a key that a query may not see."""
    return ConfigError(
        what,
        got=f"position {key}, which position {query} does not see in layer {head.layer}",
        expected="a key that the query sees",
        do="Choose an earlier position, within the window of a layer that has one.",
    )


def _check_scores(spliced: Spliced, what: str) -> None:
    cap = getattr(spliced.model.cfg, SOFT_CAP, None)
    if cap is not None and cap > 0:
        raise SpliceError(
            what,
            got=f"a model whose attention scores are capped, {cap:g} · tanh(score / {cap:g})",
            expected="scores that are products of queries and keys",
            do="A capped score is no sum over pairs of sources; its parts would not add up to it.",
        )
