"""What circuit-tracer 0.5.0 computes: `.peers/circuit-tracer/bin/python -m tests.hub.golden.gemma_scope_2_clt`.

It reads cross-layer sets of equal input and output width only, and leaves out the layer of the highest number,
for which another is named here.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from circuit_tracer.transcoder.cross_layer_transcoder import load_gemma_scope_2_clt
from safetensors.torch import save_file
from torch import Tensor

from tests.hub.published.gemma_scope_2 import CROSS_LAYER, D_IN, LAYERS, write

TARGET = Path(__file__).with_suffix(".safetensors")


def main() -> None:
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        write(Path(folder), d_out=D_IN)
        golden = {
            f"{name}.{tensor}": value
            for name in CROSS_LAYER
            for tensor, value in _run(Path(folder) / name).items()
        }
    save_file(golden, TARGET)


@torch.no_grad()
def _run(folder: Path) -> dict[str, Tensor]:
    paths = {n: str(folder / f"params_layer_{n}.safetensors") for n in range(LAYERS)}
    clt = load_gemma_scope_2_clt(
        {**paths, LAYERS: paths[0]}, dtype=torch.float32, device=torch.device("cpu")
    )
    x = torch.randn(LAYERS, 7, D_IN)
    return {"x": x, "y": clt.decode(clt.encode(x).to_sparse(), x)}


if __name__ == "__main__":
    main()
