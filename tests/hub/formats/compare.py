"""Comparison with tensors that a peer's own package computed."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tl_transcoders.transcoders import Transcoder

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(peer: str, case: str) -> dict[str, Tensor]:
    """The tensors of one case, by name."""
    tensors = load_file(GOLDEN / f"{peer}.safetensors")
    found = {k.removeprefix(f"{case}."): v for k, v in tensors.items() if k.startswith(f"{case}.")}
    assert found, (
        f"no case {case!r}: run python -m tests.hub.golden.{peer} in the peer's environment"
    )
    return found


def assert_computes(transcoder: Transcoder, expected: dict[str, Tensor]) -> None:
    """Outputs and, where they are given, features agree to 1e-5."""
    x = expected["x"]
    torch.testing.assert_close(transcoder(x), expected["y"], rtol=1e-5, atol=1e-5)
    if "post" in expected:
        torch.testing.assert_close(transcoder.encode(x), expected["post"], rtol=1e-5, atol=1e-5)
