"""A small MLP to imitate, and trainers for it."""

import torch
from torch import Tensor

from tl_transcoders.training import TrainConfig, Trainer
from tl_transcoders.transcoders import Activation

D_IN, D_OUT, HIDDEN, FEATURES, ROWS = 13, 11, 17, 43, 257


def batch(number: int, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Inputs far from mean 0 and spread 1, and what a ReLU MLP makes of them."""
    weights = torch.Generator().manual_seed(5)
    W_in = torch.randn(D_IN, HIDDEN, generator=weights)
    W_out = torch.randn(HIDDEN, D_OUT, generator=weights)
    x = torch.randn(rows, D_IN, generator=torch.Generator().manual_seed(100 + number))
    return 0.1 * x + 0.3, 20 * (x @ W_in).relu() @ W_out + 7


def trainer(activation: Activation, **options: object) -> Trainer:
    config = TrainConfig(n_features=FEATURES, activation=activation, **options)
    cfg = config.coder_config(layer=0, d_in=D_IN, d_out=D_OUT, folded=False)
    return Trainer.new(cfg, config, seed=3)
