"""What dictionary_learning 0.1.0 computes: `.peers/dictionary-learning/bin/python -m tests.hub.golden.dictionary_learning`."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from dictionary_learning import AutoEncoder
from dictionary_learning.utils import load_dictionary
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.hub.published.dictionary_learning import CASES, D, write

TARGET = Path(__file__).with_suffix(".safetensors")


def main() -> None:
    torch.manual_seed(0)
    golden: dict[str, Tensor] = {}
    for case in CASES:
        with TemporaryDirectory() as folder:
            write(Path(folder), case=case)
            trainer = f"{folder}/resid_post_layer_3/trainer_0"
            golden |= {f"{case}.{name}": tensor for name, tensor in _run(trainer, case).items()}
    save_file(golden, TARGET)


@torch.no_grad()
def _run(trainer: str, case: str) -> dict[str, Tensor]:
    dictionary = _load(trainer, case)
    x = torch.randn(21, D)
    return {"x": x, "post": dictionary.encode(x), "y": dictionary(x)}


def _load(trainer: str, case: str) -> nn.Module:
    if case == "AutoEncoder":  # without normalising the decoder, which changes its features
        return AutoEncoder.from_pretrained(f"{trainer}/ae.pt", normalize_decoder=False)
    return load_dictionary(trainer, "cpu")[0]


if __name__ == "__main__":
    main()
