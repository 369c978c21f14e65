"""The attribution graph of a prompt, or of many."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_transcoders.circuits.graphs.bent import Unspliced
from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.graphs.outcomes import Target, TopTokens
from tl_transcoders.circuits.graphs.prompts import Prompt
from tl_transcoders.circuits.graphs.tracer import TOP, Tracer
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import Run


def attribution_graph(
    spliced: Spliced,
    prompt: Prompt,
    *,
    targets: TopTokens | Sequence[Target] = TOP,
    max_features: int | None = None,
    per_update: int = 2048,
    memory: int = 1 << 30,
    dtype: torch.dtype | None = None,
    unspliced: Unspliced = "constant",
) -> Graph:
    """Direct effects between embeddings, features, errors and outcomes, attention and norms frozen.

        effect[t ← s] = what s writes · ∂ pre(t) / ∂ residual stream        rows: targets, columns: sources

    Attention patterns, norm scales and which features are active stay what they are in the run; the values of heads
    and skip connections pass on what reaches them. Original MLPs at positions that the splice excludes write what they
    wrote in the run: they are nodes that nothing leads to.

    **Arguments:**

    - `prompt`: a text, token ids, or a run of one prompt.
    - `targets`: what to explain. By default the most probable next tokens, TopTokens(n=10, mass=0.95); else any of
      token ids or texts, pairs of them (a logit difference), Token, Difference and Feature with a position.
    - `max_features`: how many features get a row, the most influential first; None for all active ones. What others
      do to a target is in `left_out`.
    - `per_update`: how many features get a row before influence is computed again.
    - `memory`: bytes that the working memory of a pass may take; rows come on top.
    - `dtype`: of the products along attention and skip connections; states and rows stay in the run's, float32 or
      wider. bfloat16 makes entries wrong by up to 2 % of the largest.
    - `unspliced`: what an MLP without a transcoder is. "constant": a node that writes what it wrote in the run;
      "linear": its Jacobian at the run passes on what reaches it, and its node writes the rest, mlp(x) − J x. A graph
      with linear MLPs keeps no run, because `validate` and others hold MLPs constant.

    Source: Ameisen et al. 2025, Circuit Tracing, section 3.

    **Raises:** ConfigError for a target, a budget or a prompt that cannot be; SpliceError for a splice with SAEs, a
    prompt on which no feature is active, activations that are not finite, or rows that do not sum.

    ```python
    graph = attribution_graph(spliced, "The capital of France is", max_features=5000)
    graph.gap, graph.replacement_score, graph.prune().top(10)
    ```
    """
    check_sizes("attribution_graph", max_features=max_features, per_update=per_update)
    tracer = Tracer(spliced, prompt, memory=memory, dtype=dtype, unspliced=unspliced)
    return tracer.graph(targets=targets, max_features=max_features, per_update=per_update)


def attribution_graphs(
    spliced: Spliced, prompts: Iterable[str | Run | Tensor], **options: Any
) -> list[Graph]:
    """The graphs of some prompts of any lengths, one after the other; options as of `attribution_graph`.

    **Raises:** as `attribution_graph`; ConfigError for one text instead of some, or for none.
    """
    each = [prompts] if isinstance(prompts, str) else list(prompts)
    if isinstance(prompts, str) or not each:
        raise ConfigError(
            "attribution_graphs, prompts",
            got=repr(prompts),
            expected="a list of one prompt or more",
            do="Put a single prompt into a list, or call attribution_graph.",
        )
    return [attribution_graph(spliced, prompt, **options) for prompt in each]
