"""What sparsify 1.3.3 computes: `.peers/sparsify/bin/python -m tests.hub.golden.sparsify`."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it is read on import

import torch
from safetensors.torch import save_file
from sparsify import SparseCoder
from torch import Tensor

from tests.hub.published.sparsify import CASES, D_IN, write

TARGET = Path(__file__).with_suffix(".safetensors")
HOOKPOINT = "layers.3.mlp"


def main() -> None:
    torch.manual_seed(0)
    golden: dict[str, Tensor] = {}
    for case in CASES:
        with TemporaryDirectory() as folder:
            write(Path(folder), case=case, hookpoints=(HOOKPOINT,))
            golden |= {f"{case}.{k}": t for k, t in _run(Path(folder) / HOOKPOINT).items()}
    save_file(golden, TARGET)


@torch.no_grad()
def _run(folder: Path) -> dict[str, Tensor]:
    coder = SparseCoder.load_from_disk(folder)
    x = torch.randn(23, D_IN)
    encoded = coder.encode(x)
    post = torch.zeros_like(encoded.pre_acts)
    post.scatter_(-1, encoded.top_indices, encoded.top_acts)
    return {"x": x, "post": post, "y": coder(x).sae_out}


if __name__ == "__main__":
    main()
