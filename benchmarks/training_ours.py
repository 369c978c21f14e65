"""Our side of `benchmarks.training`, in its own process: `python -m benchmarks.training_ours STEPS data|raw`."""

import sys

import torch
from torch import Tensor

from benchmarks.training_task import BETAS, FEATURES, LR, D, K, first_encoder, lr_scale, serve
from tl_transcoders.training import TrainConfig, Trainer
from tl_transcoders.training.losses import fvu, total_variance
from tl_transcoders.transcoders import TopK, Transcoder


def main() -> None:
    """Answer the parent until it closes the pipe."""
    steps, units = int(sys.argv[1]), sys.argv[2]
    config = TrainConfig(
        n_features=FEATURES,
        activation=TopK(K),
        lr=LR,
        betas=BETAS,
        auxk=0.0,
        data_units=units == "data",
    )
    transcoder = Transcoder(
        config.coder_config(layer=0, d_in=D, d_out=D, folded=False),
        W_enc=first_encoder().T,
        b_enc=torch.zeros(FEATURES),
        W_dec=torch.zeros(FEATURES, D),
        b_dec=torch.zeros(D),
    )
    trainer = Trainer(transcoder, config)

    def step(number: int, x: Tensor, y: Tensor) -> float:
        return trainer.step(x, y, lr_scale=lr_scale(number, steps)).fvu

    @torch.no_grad()
    def evaluate(x: Tensor, y: Tensor) -> float:
        return float(fvu(y, transcoder(x), total_variance(y)))

    serve(step, evaluate)


if __name__ == "__main__":
    main()
