"""A run on one prompt, checked."""

from typing import Any

from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.weights.stream import Stream
from tl_transcoders.errors import ShapeError, SpliceError
from tl_transcoders.hosts import check_tokens
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run, as_run

Prompt = str | Run | Int[Tensor, "*one pos"]


def run_on(spliced: Spliced, prompt: Prompt) -> Run:
    """The run on a text, on token ids, or the run itself.

    **Raises:** ShapeError for more prompts than one; ConfigError for tokens that are not the model's; SpliceError for
    SAEs, and for activations that are not finite.
    """
    Stream.check(spliced)
    run = as_run(spliced, prompt if isinstance(prompt, Run) else _tokens(spliced, prompt))
    if len(run.tokens) != 1:
        raise _several(len(run.tokens))
    if run.model.saes:
        raise SpliceError(
            "circuits.weights",
            got=f"SAEs at layers {sorted(run.model.saes)}",
            expected="transcoders",
            do="Splice transcoders; path_patch and attribute know SAEs too.",
        )
    features = [run.values["features", layer].values for layer in run.model.swaps]
    if not all(bool(x.isfinite().all()) for x in (run.logits, run.resid_final, *features)):
        raise SpliceError(
            "circuits.weights",
            got="activations that are not finite",
            expected="finite numbers",
            do="Check the weights of the model and of the transcoders; try float32.",
        )
    return run


def _tokens(spliced: Spliced, prompt: Any) -> Int[Tensor, "one pos"]:
    found: Any = spliced.model.to_tokens(prompt) if isinstance(prompt, str) else prompt
    tokens = found[None] if isinstance(found, Tensor) and found.ndim == 1 else found
    check_tokens(spliced.host, tokens, "circuits.weights, prompt")
    if len(tokens) != 1:
        raise _several(len(tokens))
    return tokens


def _several(n: int) -> ShapeError:
    return ShapeError(
        "circuits.weights, prompt",
        got=f"{n} prompts",
        expected="one",
        do="Ask for each prompt; mean_connections takes many.",
    )
