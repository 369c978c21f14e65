"""What SAELens 6.54.12 computes: `.peers/sae-lens/bin/python -m tests.hub.golden.sae_lens`."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sae_lens import SAE
from safetensors.torch import save_file
from torch import Tensor

from tests.hub.published.sae_lens import CASES, D_IN, SCALE, write

TARGET = Path(__file__).with_suffix(".safetensors")


def main() -> None:
    torch.manual_seed(0)
    golden: dict[str, Tensor] = {}
    for case in CASES:
        with TemporaryDirectory() as folder:
            write(Path(folder), case=case, layers=(3,))
            golden |= {f"{case}.{name}": tensor for name, tensor in _run(Path(folder)).items()}
    save_file(golden, TARGET)


@torch.no_grad()
def _run(folder: Path) -> dict[str, Tensor]:
    sae = SAE.load_from_disk(folder)
    if sae.cfg.normalize_activations == "expected_average_only_in":
        sae.fold_activation_norm_scaling_factor(SCALE)
    x = torch.randn(3, 7, D_IN)
    published = x.unflatten(-1, (1, D_IN)) if sae.cfg.reshape_activations == "hook_z" else x
    y = sae(published).reshape(3, 7, -1)
    return {"x": x, "post": sae.encode(published), "y": y}


if __name__ == "__main__":
    main()
