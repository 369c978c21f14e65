"""The tasks that SmolLM2-135M and Gemma-3-270M do well enough to trace circuits on."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from examples.real_models import gemma3, load_bridge, smollm2
from tl_transcoders.circuits.tasks import (
    Task,
    agreement,
    greater_than,
    greater_than_digit,
    induction,
    ioi,
    pronoun,
    require,
)
from tl_transcoders.errors import ConfigError

pytestmark = [pytest.mark.real]
N = 32
TASKS: dict[str, Callable[..., Task]] = {
    "ioi": ioi,
    "ioi-baba-names": partial(ioi, order="BABA", corruption="names"),
    "agreement": partial(agreement, clause="none"),
    "pronoun": pronoun,
    "decade": greater_than_digit,
    "unit": partial(greater_than_digit, digit="unit"),
    "induction": induction,
}


# As in test_models: SmolLM2's BOS is a chat marker, and Gemma needs its own.
@pytest.fixture(
    scope="module", params=[(smollm2, False), (gemma3, True)], ids=["smollm2", "gemma3"]
)
def reader(request: pytest.FixtureRequest) -> tuple[Any, bool]:
    folder, prepend_bos = request.param
    return load_bridge(folder()), prepend_bos


@pytest.mark.parametrize("name", TASKS)
def test_a_task_passes_the_gate(reader: tuple[Any, bool], name: str) -> None:
    model, prepend_bos = reader
    require(model, TASKS[name](model.tokenizer, n=N, prepend_bos=prepend_bos))


def test_their_digits_stand_alone(reader: tuple[Any, bool]) -> None:
    with pytest.raises(ConfigError, match="got 0 numbers of two digits that are single tokens"):
        greater_than(reader[0].tokenizer)
