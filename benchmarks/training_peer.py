"""The peer's side of `benchmarks.training`, in its own environment: eai-sparsify's step as its Trainer takes it."""

import sys

import torch
from sparsify import SparseCoder
from sparsify.config import SparseCoderConfig
from torch import Tensor

from benchmarks.training_task import BETAS, FEATURES, LR, D, K, first_encoder, lr_scale, serve


def main() -> None:
    """Answer the parent until it closes the pipe."""
    steps = int(sys.argv[1])
    coder = SparseCoder(D, SparseCoderConfig(num_latents=FEATURES, k=K, transcode=True))
    coder.encoder.weight.data.copy_(first_encoder())
    # torch's own default on a CPU is an Adam of one operation per tensor, which is slower.
    adam = torch.optim.Adam(coder.parameters(), lr=LR, betas=BETAS, fused=True)
    silent_for = torch.zeros(FEATURES, dtype=torch.long)
    did_fire = torch.zeros(FEATURES, dtype=torch.bool)

    def step(number: int, x: Tensor, y: Tensor) -> float:
        if number == 0:
            coder.encoder.bias.data = -x.mean(0) @ coder.encoder.weight.data.T
            coder.b_dec.data = y.mean(0)
        out = coder(x=x, y=y, dead_mask=None, total_variance=(y - y.mean(0)).pow(2).sum())
        did_fire[out.latent_indices.flatten()] = True
        fvu = float(out.fvu.detach())
        out.fvu.backward()
        adam.param_groups[0]["lr"] = LR * lr_scale(number, steps)
        adam.step()
        adam.zero_grad()
        silent_for.add_(len(x))
        silent_for[did_fire] = 0
        did_fire.zero_()
        return fvu

    @torch.no_grad()
    def evaluate(x: Tensor, y: Tensor) -> float:
        return float(coder(x=x, y=y).fvu)

    serve(step, evaluate)


if __name__ == "__main__":
    main()
