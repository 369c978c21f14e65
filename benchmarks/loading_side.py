"""One side of `benchmarks.loading`, in a process and an environment of its own.

`python -m benchmarks.loading_side ours|circuit-tracer|sae-lens FOLDER` prints one JSON line last.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

N_LAYERS, D, FEATURES, TOKENS = 30, 576, 16_384, 16

Encode = Callable[[Tensor], Tensor]


def ours() -> Callable[[Path], Encode]:
    """This package."""
    import tl_transcoders as tlt

    return lambda folder: tlt.load(folder)[0].encode


def circuit_tracer() -> Callable[[Path], Encode]:
    """circuit-tracer, with both of its lazy modes on."""
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set

    def load(folder: Path) -> Encode:
        paths = {i: str(folder / f"layer_{i}.safetensors") for i in range(N_LAYERS)}
        return load_transcoder_set(
            paths,
            scan="scan",
            feature_input_hook="mlp.hook_in",
            feature_output_hook="mlp.hook_out",
            lazy_encoder=True,
            lazy_decoder=True,
        )[0].encode

    return load


def sae_lens() -> Callable[[Path], Encode]:
    """SAELens through its loader of this layout, its downloads answered from the folder."""
    import sae_lens
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def load(folder: Path) -> Encode:
        loaders.hf_hub_download = lambda repo_id, filename, **_: str(folder / filename)
        saes = [
            sae_lens.SAE.from_pretrained(
                "org/set",
                f"layer_{i}.safetensors",
                converter=loaders.mwhanna_transcoder_huggingface_loader,
            )
            for i in range(N_LAYERS)
        ]
        return saes[0].encode

    return load


SIDES = {"ours": ours, "circuit-tracer": circuit_tracer, "sae-lens": sae_lens}


@torch.no_grad()
def main(name: str, folder: Path) -> None:
    """Import, then open the set and compute the features of layer 0 for one prompt."""
    x = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(0))
    start = perf_counter()
    load = SIDES[name]()
    imported = perf_counter() - start
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = perf_counter()
    features = load(folder)(x)
    seconds = perf_counter() - start
    facts: dict[str, Any] = {
        "seconds": seconds,
        "growth": memory("VmHWM") - before,
        "process": memory("VmHWM"),
        "import": imported,
        "sum": features.double().sum().item(),
        "active": int((features > 0).sum()),
    }
    print(json.dumps(facts))


def memory(key: str) -> int:
    """Bytes of this process by /proc/self/status: VmRSS now, VmHWM at most since it was reset."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)
    )
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
