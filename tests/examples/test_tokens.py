from pathlib import Path

import pytest
import torch

from examples.real_text import token_batches
from tests.cases import tokenizer

WORDS = [f"w{i}" for i in range(47)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(" ".join(WORDS) for _ in range(101)))
    return path


def test_rows_are_the_text_in_order(text: Path) -> None:
    rows = token_batches(tokenizer(), text, context=13)
    assert rows.shape == (47 * 101 // 13, 13)
    assert torch.equal(rows.flatten(), torch.arange(47).repeat(101)[: rows.numel()])


def test_a_limit_gives_the_first_rows(text: Path) -> None:
    rows = token_batches(tokenizer(), text, context=13, limit=100)
    assert torch.equal(rows, token_batches(tokenizer(), text, context=13)[: 100 // 13])
