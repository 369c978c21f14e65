"""What SAELens 6.54.12 computes: `.peers/sae-lens/bin/python -m tests.hub.golden.gemma_scope_2`.

Its loader is given a folder where it would ask the hub. Of a cross-layer set it sums the decoders, so only the
features are kept.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from huggingface_hub.errors import EntryNotFoundError
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.hub.published.gemma_scope_2 import CROSS_LAYER, D_IN, LAYERS, SETS, SINGLE, write

TARGET = Path(__file__).with_suffix(".safetensors")
REPO = "org/gemma-scope-2-270m-pt"
NAMES = (
    *(name.format(2) for name in SETS),
    *SINGLE,
    *(f"{name}/params_layer_{layer}" for name in CROSS_LAYER for layer in range(LAYERS)),
)


def main() -> None:
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        write(Path(folder))
        _read_from(Path(folder))
        golden = {f"{case}.{name}": t for case in NAMES for name, t in _run(case).items()}
    save_file(golden, TARGET)


def _read_from(folder: Path) -> None:
    def download(
        repo_id: str, filename: str, subfolder: str = "", force_download: bool = False
    ) -> str:
        path = folder / subfolder / filename
        if not path.exists():
            raise EntryNotFoundError(filename)
        return str(path)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        return {name: list(t.shape) for name, t in load_file(folder / filename).items()}

    loaders.hf_hub_download = download
    loaders.get_safetensors_tensor_shapes = shapes


@torch.no_grad()
def _run(name: str) -> dict[str, Tensor]:
    sae = SAE.from_pretrained(REPO, name, converter=loaders.gemma_3_sae_huggingface_loader)
    x = torch.randn(3, 7, D_IN)
    features = {"x": x, "post": sae.encode(x)}
    return features if name.startswith("clt") else {**features, "y": sae(x)}


if __name__ == "__main__":
    main()
