"""The density at which gathering decoder rows stops being faster than the dense product.

For ReLU and JumpReLU the number of active features is known only once they are computed, so the sparse
route pays for finding them (`SparseFeatures.from_dense`) before it gathers. `GATHER_BELOW` in
`tl_transcoders/transcoders/encode.py` is set below the crossover this prints.

`python -m benchmarks.density` prints one JSON line last.
"""

import json
from typing import Annotated

import torch
import typer

from benchmarks.splice import interleave
from tl_transcoders.transcoders import SparseFeatures
from tl_transcoders.transcoders.encode import GATHER_BELOW

DENSITIES = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)


def main(
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 9,
    tokens: int = 1024,
    n_features: int = 4608,
    d_model: int = 576,
) -> None:
    """Measure and print."""
    torch.set_grad_enabled(False)
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(n_features, d_model, generator=generator)
    ratios = {}
    for density in DENSITIES:
        post = torch.rand(tokens, n_features, generator=generator)
        post *= torch.rand(tokens, n_features, generator=generator) < density

        def dense(post: torch.Tensor = post) -> None:
            _ = post @ W_dec

        def sparse(post: torch.Tensor = post) -> None:
            SparseFeatures.from_dense(post).matmul(W_dec)

        medians = interleave({"dense": dense, "sparse": sparse}, rounds)
        ratios[density] = round(medians["sparse"] / medians["dense"], 3)
    crossover = max((d for d, ratio in ratios.items() if ratio < 1), default=0.0)
    print(
        json.dumps(
            {
                "crossover": crossover,
                "gather_below": GATHER_BELOW,
                "sparse_over_dense": ratios,
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
