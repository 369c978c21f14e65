"""A tiny model and tokens to train on."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.cases import BOS, FEATURES, Host
from tl_transcoders.training import TrainConfig
from tl_transcoders.transcoders import TopK

CONTEXT = 16


@cache
def model(processed: bool = False) -> Any:
    return Host("gpt2", "bridge", processed).build()


def tokens(rows: int = 60) -> Tensor:
    """Random words, each row begun by BOS."""
    words = torch.randint(50, (rows, CONTEXT), generator=torch.Generator().manual_seed(3))
    words[:, 0] = BOS
    return words


def config(**options: Any) -> TrainConfig:
    given = {"n_features": FEATURES, "activation": TopK(5), "batch_size": 64, "exclude": (BOS,)}
    return TrainConfig(**{**given, **options})
