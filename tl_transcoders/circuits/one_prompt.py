"""The run on one prompt that is to be explained, checked before anything is computed from it."""

from typing import Any

from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.checks import check_spliced, check_unpadded
from tl_transcoders.errors import ShapeError, SpliceError
from tl_transcoders.hosts import check_tokens
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run, as_run

Prompt = str | Run | Int[Tensor, "*one pos"]


def run_of_one(spliced: Spliced, prompt: Prompt, where: str) -> Run:
    """The run on a text, on token ids, or the run itself.

    **Raises:** ShapeError for more prompts than one; ConfigError for what is no splice, and for tokens that are not
    the model's or too many for its context; SpliceError for SAEs, and for activations that are not finite.
    """
    check_spliced(spliced)
    run = as_run(spliced, prompt if isinstance(prompt, Run) else _tokens(spliced, prompt, where))
    _check_one(len(run.tokens), where)
    if run.model.saes:
        raise SpliceError(
            where,
            got=f"SAEs at layers {sorted(run.model.saes)}",
            expected="transcoders",
            do="Splice transcoders; path_patch and attribute know SAEs too.",
        )
    features = [run.values["features", layer].values for layer in run.model.swaps]
    if not all(bool(x.isfinite().all()) for x in (run.logits, run.resid_final, *features)):
        raise SpliceError(
            where,
            got="activations that are not finite",
            expected="finite numbers",
            do="Check the weights of the model and of the transcoders; try float32.",
        )
    return run


def _tokens(spliced: Spliced, prompt: str | Tensor, where: str) -> Int[Tensor, "one pos"]:
    found: Any = spliced.model.to_tokens(prompt) if isinstance(prompt, str) else prompt
    tokens = found[None] if isinstance(found, Tensor) and found.ndim == 1 else found
    check_tokens(spliced.host, tokens, f"{where}, prompt")
    check_unpadded(spliced, tokens, f"{where}, prompt")
    _check_one(len(tokens), where)
    return tokens


def _check_one(n: int, where: str) -> None:
    if n != 1:
        raise ShapeError(
            f"{where}, prompt", got=f"{n} prompts", expected="one", do="Ask for each prompt."
        )
