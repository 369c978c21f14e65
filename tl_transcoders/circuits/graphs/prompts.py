"""The run on a prompt that a graph is made of, checked before and after."""

from typing import Any

from jaxtyping import Int
from torch import Tensor

from tl_transcoders.errors import ConfigError, ShapeError, SpliceError
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run, as_run

Prompt = str | Run | Int[Tensor, "*one pos"]


def run_of(spliced: Spliced, prompt: Prompt) -> Run:
    """The run on a prompt, checked before and after."""
    if not isinstance(spliced, Spliced):
        raise ConfigError(
            "attribution_graph",
            got=f"a {type(spliced).__name__}",
            expected="a spliced model",
            do="Call it inside `with tlt.splice(model, transcoders) as spliced:` with `spliced`.",
        )
    spliced.check_installed()
    run = as_run(spliced, prompt if isinstance(prompt, Run) else _tokens(spliced, prompt))
    if run.model.saes:
        raise SpliceError(
            "attribution_graph",
            got=f"SAEs at layers {sorted(run.model.saes)}",
            expected="transcoders",
            do="Splice transcoders; path_patch and attribute know SAEs too.",
        )
    _check_prompt(run.tokens)
    _check_values(run)
    return run


def _tokens(spliced: Spliced, prompt: str | Tensor) -> Int[Tensor, "one pos"]:
    found: Any = spliced.model.to_tokens(prompt) if isinstance(prompt, str) else prompt
    tokens = found[None] if isinstance(found, Tensor) and found.ndim == 1 else found
    if isinstance(tokens, Tensor) and tokens.ndim == 2:
        _check_prompt(tokens)
        context = int(spliced.model.cfg.n_ctx)
        if tokens.shape[1] > context:
            raise ShapeError(
                "attribution_graph, prompt",
                got=f"{tokens.shape[1]} tokens",
                expected=f"at most the model's context, {context}",
                do="Shorten the prompt.",
            )
    return tokens


def _check_prompt(tokens: Tensor) -> None:
    if len(tokens) != 1 or tokens.shape[1] < 2:
        raise ShapeError(
            "attribution_graph, prompt",
            got=f"{len(tokens)} prompts of {tokens.shape[1]} tokens",
            expected="one prompt of two tokens or more",
            do="Make a graph of each prompt; a single token has nothing before it.",
        )


def _check_values(run: Run) -> None:
    features = [run.values["features", layer].values for layer in run.model.swaps]
    if not all(bool(x.isfinite().all()) for x in (run.logits, run.resid_final, *features)):
        raise SpliceError(
            "attribution_graph",
            got="activations that are not finite",
            expected="finite numbers",
            do="Check the weights of the model and of the transcoders; try float32.",
        )
    if not any(bool((values != 0).any()) for values in features):
        raise SpliceError(
            "attribution_graph",
            got="no active feature in any layer",
            expected="at least one",
            do="Check that the transcoders fit this model (tlt.check) and that not all positions are excluded.",
        )


def words_of(spliced: Spliced, run: Run) -> tuple[str, ...]:
    """The text of every token; its id where the model has no tokenizer."""
    tokenizer: Any = spliced.host.tokenizer
    ids = run.tokens[0].tolist()
    return tuple(str(i) if tokenizer is None else tokenizer.decode([i]) for i in ids)
