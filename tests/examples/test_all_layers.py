"""Where the example that replaces all MLPs keeps what it trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tl_transcoders as tlt
from examples import all_layers
from tl_transcoders.demo import load_model, load_transcoders


def test_every_number_of_tokens_has_its_own_transcoders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[int] = []

    def train(_: Any, layers: Any, tokens: Any, folder: Path, n_tokens: int, *sizes: int) -> Any:
        asked.append(n_tokens)
        return load_transcoders("topk")

    monkeypatch.setattr(all_layers, "FOLDER", tmp_path)
    monkeypatch.setattr(all_layers, "train", train)
    monkeypatch.setattr(all_layers, "prompts", lambda *_: (torch.zeros(1, 2), torch.zeros(1, 2)))
    model: Any = load_model()
    tlt.save(load_transcoders("topk"), tmp_path / "transcoders")  # where earlier ones stand
    for n_tokens in (all_layers.N_TOKENS, 64, 128, 64):
        assert isinstance(all_layers.trained(model, n_tokens), tlt.TranscoderSet)
    assert asked == [64, 128]
