"""What SAELens 6.54.12 computes with others' layouts: `.peers/sae-lens/bin/python -m tests.hub.golden.sae_lens_loaders`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.registry import get_sae_class
from sae_lens.saes.sae import SAE
from safetensors.torch import save_file
from torch import Tensor

from tests.hub.published import dictionary_learning, gemma_scope, llama_scope

TARGET = Path(__file__).with_suffix(".safetensors")
SIZES = {"d_in": 5, "d_sae": 11, "d_out": 5}


def main() -> None:
    torch.manual_seed(0)
    golden: dict[str, Tensor] = {}
    with TemporaryDirectory() as folder:
        for case, sae in _saes(Path(folder)):
            golden |= {f"{case}.{name}": tensor for name, tensor in _run(sae).items()}
    save_file(golden, TARGET)


def _saes(folder: Path) -> Iterator[tuple[str, SAE]]:
    for case in gemma_scope.CASES:
        repository = gemma_scope.write(folder / f"gemma-{case}", case=case)
        name = "gemma_2_transcoder" if case == "transcoders" else "gemma_2_sae"
        loader = getattr(loaders, f"{name}_huggingface_loader")
        overrides = {k: v for k, v in SIZES.items() if k != "d_out" or case == "transcoders"}
        overrides["reshape_activations"] = "none"
        sae_id = "layer_3/width_16k/average_l0_89"
        yield f"gemma_scope.{case}", _load(loader, repository, sae_id, overrides)
    for case in dictionary_learning.CASES:
        repository = folder / f"dictionary-{case}"
        dictionary_learning.write(repository, case=case)
        loader = loaders.dictionary_learning_sae_huggingface_loader_1
        sae_id = "resid_post_layer_3/trainer_0"
        if case != "AutoEncoderNew":  # which it takes for an AutoEncoder
            yield f"dictionary_learning.{case}", _load(loader, repository, sae_id, {})
    llama_scope.write(folder, case="unit_norm")
    loader, sae_id = loaders.llama_scope_sae_huggingface_loader, llama_scope.folder_name(3)
    sae = _load(loader, folder, sae_id, {"dtype": "float32"})
    sae.fold_activation_norm_scaling_factor(5**0.5 / llama_scope.NORMS["in"])
    yield "llama_scope.unit_norm", sae


def _load(loader: Callable, repository: Path, sae_id: str, overrides: dict[str, object]) -> SAE:
    """What SAE.from_pretrained does, with the files of a folder."""

    def local(repo_id: str, filename: str, subfolder: str = "", **_: object) -> str:
        return str(repository / subfolder / filename)

    with mock.patch.object(loaders, "hf_hub_download", local):
        cfg, state, _ = loader(repository.name, sae_id, "cpu", False, overrides)
    cfg = loaders.handle_pre_6_0_config(cfg)
    sae_class, cfg_class = get_sae_class(cfg["architecture"])
    sae = sae_class(cfg_class.from_dict(cfg))
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state)
    return sae


@torch.no_grad()
def _run(sae: SAE) -> dict[str, Tensor]:
    x = torch.randn(3, 7, 5)
    return {"x": x, "post": sae.encode(x), "y": sae(x)}


if __name__ == "__main__":
    main()
