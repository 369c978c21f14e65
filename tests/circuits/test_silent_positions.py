"""Positions that do not exist, and parts of a node that a question does not take, are told and not dropped."""

import pytest

import tl_transcoders as tlt
from tests.circuits.test_graph import PROMPT, spliced_with
from tl_transcoders.circuits import attention_row
from tl_transcoders.circuits.nodes import Head
from tl_transcoders.circuits.weights import Features, connections, contributions
from tl_transcoders.errors import ConfigError


@pytest.mark.parametrize("head", [Head(1, 0, "q"), Head(1, 0, None, 2)], ids=str)
def test_a_way_names_neither_reader_nor_position(head: Head) -> None:
    with spliced_with() as spliced, pytest.raises(ConfigError, match="a reader or a position"):
        connections(spliced, source=Features(0), target=Features(2), via=head, k=3)


def test_a_source_stands_in_the_prompt() -> None:
    with spliced_with() as spliced, pytest.raises(ConfigError, match="position"):
        contributions(spliced, PROMPT, source=tlt.Feature(0, 1, 500), target=Features(2), k=3)


def test_a_key_stands_in_the_prompt() -> None:
    with spliced_with() as spliced:
        row = attention_row(spliced, PROMPT, head=Head(1, 0), query=3)
        with pytest.raises(ConfigError):
            row.key(1000)
        assert row.key(2).score == row.key(2 - PROMPT.shape[1]).score
