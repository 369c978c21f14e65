"""What circuit-tracer 0.5.0 computes from the sets of `tests.hub.published.circuit_tracer`.

`.peers/circuit-tracer/bin/python -m tests.hub.golden.circuit_tracer` writes `circuit_tracer.safetensors` beside
this file.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.hub.published.circuit_tracer import N_LAYERS, D, write_clt, write_set

POSITIONS = 7


def main() -> None:
    """Write the golden tensors: for every case x, the features and y, `[layer pos …]`."""
    golden: dict[str, Tensor] = {}
    with TemporaryDirectory() as folder:
        for threshold in (False, True):
            name = "jumprelu" if threshold else "relu"
            write_set(Path(folder, name), threshold=threshold, skip=threshold)
            golden |= outputs(f"set-{name}", peer_set(Path(folder, name)))
            write_clt(Path(folder, f"clt-{name}"), threshold=threshold)
            golden |= outputs(f"clt-{name}", peer_clt(Path(folder, f"clt-{name}")))
    save_file(golden, Path(__file__).with_suffix(".safetensors"))


def peer_set(folder: Path) -> Any:
    """The peer's own transcoder set."""
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set

    paths = {i: str(folder / f"layer_{i}.safetensors") for i in range(N_LAYERS)}
    return load_transcoder_set(
        paths, scan="scan", feature_input_hook="mlp.hook_in", feature_output_hook="hook_mlp_out"
    )


def peer_clt(folder: Path) -> Any:
    """The peer's own cross-layer transcoder."""
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt

    return load_clt(str(folder), dtype=torch.float32)


@torch.no_grad()
def outputs(name: str, peer: Any) -> dict[str, Tensor]:
    """Inputs, features and outputs of every layer."""
    x = torch.randn(N_LAYERS, POSITIONS, D, generator=torch.Generator().manual_seed(3))
    post = peer.encode(x)
    y = peer.decode(post, x)
    return {f"{name}.x": x, f"{name}.post": post.contiguous(), f"{name}.y": y.contiguous()}


if __name__ == "__main__":
    main()
