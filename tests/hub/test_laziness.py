"""Opening a set reads headers; a feature is read when it is touched."""

import os
from pathlib import Path

import pytest
import torch

from tests.hub.client import Client
from tests.hub.samples import transcoder
from tl_transcoders.hub import load, save
from tl_transcoders.transcoders import TranscoderSet

STATM = Path("/proc/self/statm")
MAPS = Path("/proc/self/maps")
MEGABYTE = 2**20


def _resident() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _touch(folder: Path, feature: int, dtype: torch.dtype | None = None) -> tuple[int, int]:
    """Bytes that become resident by opening the set, and by touching one feature of every layer."""
    before = _resident()
    transcoders = load(folder, dtype=dtype)
    assert isinstance(transcoders, TranscoderSet)
    opened = _resident()
    for t in transcoders.values():
        assert (t.W_enc[:, feature] @ t.W_dec[feature]).isfinite()
    return opened - before, _resident() - opened


@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")
def test_opening_reads_next_to_nothing(client: Client, tmp_path: Path) -> None:
    warm = save(transcoder(d_in=512, d_out=512), tmp_path / "warm")
    wide = {n: transcoder(n, d_in=512, d_out=512, n_features=8192, skip=False) for n in range(2)}
    folder = save(TranscoderSet(wide), tmp_path / "set")
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size > 64 * MEGABYTE
    client.run(_touch, warm, 7)
    opened, touched = client.run(_touch, folder, 1234)
    converted, _ = client.run(_touch, folder, 1234, torch.float64)
    assert opened < 4 * MEGABYTE
    assert touched < size / 4  # four touches; the kernel may map up to 2 MB for each
    assert converted > 1.9 * size  # the measure does see memory that is taken


@pytest.mark.skipif(not MAPS.exists(), reason="mappings are read from /proc")
def test_weights_lie_in_the_file(tmp_path: Path) -> None:
    folder = save(transcoder(), tmp_path / "set")
    as_stored, converted = load(folder), load(folder, dtype=torch.float64)
    assert isinstance(as_stored, TranscoderSet)
    assert isinstance(converted, TranscoderSet)
    mapped = _mapped(folder / "layer_3.safetensors")
    for parameter in as_stored[3].parameters():
        assert any(parameter.data_ptr() in span for span in mapped)
    assert not any(converted[3].W_enc.data_ptr() in span for span in mapped)


def _mapped(path: Path) -> list[range]:
    lines = (line.split() for line in MAPS.read_text().splitlines() if line.endswith(str(path)))
    spans = (line[0].split("-") for line in lines)
    return [range(int(start, 16), int(end, 16)) for start, end in spans]
