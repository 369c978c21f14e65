"""Loading a published folder, and comparing it with tensors that a peer's own package computed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub import load
from tl_transcoders.transcoders import Transcoder, TranscoderSet

GOLDEN = Path(__file__).parent.parent / "golden"


def load_set(folder: Path, **options: object) -> TranscoderSet:
    found = load(folder, **options)
    assert isinstance(found, TranscoderSet)
    return found


def load_one(folder: Path, **options: object) -> Transcoder:
    (found,) = load_set(folder, **options).values()
    return found


def refusal(folder: Path, **options: object) -> TranscoderFormatError:
    with pytest.raises(TranscoderFormatError) as caught:
        load(folder, **options)
    return caught.value


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
    assert_near(transcoder(x), expected["y"])
    if "post" in expected:
        assert_near(transcoder.encode(x), expected["post"])


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
