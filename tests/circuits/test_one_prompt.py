"""Whatever explains one prompt says the same of what is none, in its own name."""

from typing import Any

import pytest
import torch

from tests.cases import HOSTS, tokens
from tests.circuits.attention_cases import PROMPT, spliced_with
from tl_transcoders.circuits.attention import attention_row, qk_attribution
from tl_transcoders.circuits.nodes import Head
from tl_transcoders.circuits.weights import Features, contributions, greedy_paths
from tl_transcoders.errors import ConfigError, ShapeError, SpliceError, TLTranscodersError
from tl_transcoders.splice.trace.run import capture

ASKED: list[tuple[Any, dict[str, Any]]] = [
    (qk_attribution, {"head": Head(1, 0), "query": -1, "key": 0}),
    (attention_row, {"head": Head(1, 0), "query": -1}),
    (contributions, {"source": Features(0), "target": Features(2)}),
    (greedy_paths, {"target": 3}),
]
TOLD: list[tuple[Any, type[TLTranscodersError], str]] = [
    (tokens(1, 65), ConfigError, ", prompt: got prompts of 65 positions"),
    (PROMPT.expand(2, -1), ShapeError, ", prompt: got 2 prompts"),
    (torch.zeros(1, 3), ConfigError, ", prompt: got torch.float32"),
    (3, ConfigError, ", prompt: got int"),
]
asked = pytest.mark.parametrize(("ask", "options"), ASKED, ids=lambda x: getattr(x, "__name__", ""))


@asked
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_prompt_is_told(ask: Any, options: dict[str, Any]) -> None:
    with spliced_with(HOSTS[0]) as spliced:
        for prompt, error, told in TOLD:
            with pytest.raises(error, match=f"^{ask.__name__}{told}"):
                ask(spliced, prompt, **options)
    with pytest.raises(SpliceError):
        ask(spliced, PROMPT, **options)
    with pytest.raises(ConfigError, match="a spliced model"):
        ask(HOSTS[0].build(), PROMPT, **options)


@asked
def test_what_is_not_finite_is_told(ask: Any, options: dict[str, Any]) -> None:
    with spliced_with(HOSTS[0]) as spliced:
        run = capture(spliced, PROMPT)
        run.logits[0, 0, 0] = torch.nan
        with pytest.raises(SpliceError, match=f"^{ask.__name__}: got activations that are not"):
            ask(spliced, run, **options)
