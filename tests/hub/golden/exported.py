"""What SAELens 6.54.12 computes with our exports: `.peers/sae-lens/bin/python -m tests.hub.golden.exported`.

The way back, `from_sae_lens` of SAELens' own objects, is checked here at once.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sae_lens import SAE
from safetensors.torch import save_file
from torch import Tensor

from tests.hub.interop.exported import CASES, exported
from tests.hub.published import sae_lens as published
from tl_transcoders.hub import from_sae_lens, load, save_sae_lens, to_sae_lens

TARGET = Path(__file__).with_suffix(".safetensors")


def main() -> None:
    torch.manual_seed(0)
    golden = {f"{case}.{name}": t for case in CASES for name, t in _run(case).items()}
    save_file(golden, TARGET)
    for case in published.CASES:
        _check_way_back(case)


@torch.no_grad()
def _run(case: str) -> dict[str, Tensor]:
    transcoder = exported(case)
    with TemporaryDirectory() as folder:
        saved = save_sae_lens(transcoder, Path(folder) / "set") / "layer_3"
        stored, in_memory = SAE.load_from_disk(saved), to_sae_lens(transcoder)
    x = torch.randn(3, 7, 5)
    given = x.unflatten(-1, (1, 5)) if case == "hook_z" else x
    y = stored(given).reshape(3, 7, -1)
    torch.testing.assert_close(in_memory(given).reshape(3, 7, -1), y, rtol=0, atol=0)
    return {"x": x, "post": stored.encode(given), "y": y}


@torch.no_grad()
def _check_way_back(case: str) -> None:
    with TemporaryDirectory() as folder:
        published.write(Path(folder), case=case, layers=(3,))
        sae = SAE.load_from_disk(folder)
        if sae.cfg.normalize_activations == "expected_average_only_in":
            sae.fold_activation_norm_scaling_factor(published.SCALE)
        x = torch.randn(3, 7, 5)
        torch.testing.assert_close(from_sae_lens(sae)(x), load(folder)[3](x), rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    main()
