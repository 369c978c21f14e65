"""The attribution graph of a prompt."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.graphs.assemble import assemble
from tl_transcoders.circuits.graphs.circuitry import Circuitry
from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.graphs.nodes import NodeTable
from tl_transcoders.circuits.graphs.outcomes import Outcomes, Target, TopTokens
from tl_transcoders.circuits.graphs.sweep import Sweeper
from tl_transcoders.circuits.graphs.trace import trace
from tl_transcoders.errors import ConfigError, ShapeError, SpliceError
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run, as_run

Prompt = str | Run | Int[Tensor, "*one pos"]
TOP: Final = TopTokens()


@torch.no_grad()
def attribution_graph(
    spliced: Spliced,
    prompt: Prompt,
    *,
    targets: TopTokens | Sequence[Target] = TOP,
    max_features: int | None = None,
    per_update: int = 2048,
    memory: int = 1 << 30,
) -> Graph:
    """Direct effects between embeddings, features, errors and outcomes, attention and norms frozen.

        effect[t ← s] = what s writes · ∂ pre(t) / ∂ residual stream        rows: targets, columns: sources

    Attention patterns, norm scales and which features are active stay what they are in the run; the values of heads
    and skip connections pass on what reaches them. MLPs without a transcoder write what they wrote in the run: they
    are nodes that nothing leads to. So do the original MLPs at positions that the splice excludes.

    **Arguments:**

    - `prompt`: a text, token ids, or a run of one prompt.
    - `targets`: what to explain. By default the most probable next tokens, TopTokens(n=10, mass=0.95); else any of
      token ids or texts, pairs of them (a logit difference), Token, Difference and Feature with a position.
    - `max_features`: how many features get a row, the most influential first; None for all active ones. What others
      do to a target is in `left_out`.
    - `per_update`: how many features get a row before influence is computed again.
    - `memory`: bytes that the working memory of the transposed pass may take; rows come on top.

    Source: Ameisen et al. 2025, Circuit Tracing, section 3.

    **Raises:** ConfigError for a target, a budget or a prompt that cannot be; SpliceError for a splice with SAEs, a
    prompt on which no feature is active, activations that are not finite, or rows that do not sum.

    ```python
    graph = attribution_graph(spliced, "The capital of France is", max_features=5000)
    graph.gap, graph.replacement_score, graph.prune().top(10)
    ```
    """
    _check_sizes(max_features, per_update, memory)
    run = _run(spliced, prompt)
    outcomes = Outcomes.of(run, targets)
    frame = Frame.of(run)
    sweeper = Sweeper(Circuitry.of(frame, frame.dtype), memory)
    chosen = trace(
        sweeper,
        sweeper.number(NodeTable.of(outcomes.nodes, frame.n_layers)),
        outcomes.weight,
        max_features=max_features,
        per_update=per_update,
    )
    return assemble(sweeper, chosen, outcomes, _words(spliced, run))


def _run(spliced: Spliced, prompt: Prompt) -> Run:
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


def _check_sizes(max_features: int | None, per_update: int, memory: int) -> None:
    given = {"max_features": max_features, "per_update": per_update, "memory": memory}
    for name, size in given.items():
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigError(
                f"attribution_graph, {name}",
                got=repr(size),
                expected="a whole number, 1 or more",
                do="Leave it out, or give it a size.",
            )


def _words(spliced: Spliced, run: Run) -> tuple[str, ...]:
    """The text of every token; its id where the model has no tokenizer."""
    tokenizer: Any = spliced.host.tokenizer
    ids = run.tokens[0].tolist()
    return tuple(str(i) if tokenizer is None else tokenizer.decode([i]) for i in ids)
