"""Encoders that lie in a file: computed block by block, given back to the system, and never lost."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_transcoders.transcoders import Transcoder, TranscoderConfig
from tl_transcoders.transcoders import mapped as mapped_encoders
from tl_transcoders.transcoders.pages import PAGEMAP, give_back, lies_in_file

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not Path(PAGEMAP).exists(),
    reason="only Linux tells which pages are a file's",
)

D, FEATURES = 61, 1_009


def mapped(folder: Path, seed: int = 0) -> Tensor:
    """A `[feature d]` tensor in a file."""
    rows = torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(seed))
    save_file({"rows": rows}, folder / "rows.safetensors")
    with safe_open(folder / "rows.safetensors", framework="pt") as file:
        return file.get_tensor("rows")


def transcoder(rows: Tensor) -> Transcoder:
    cfg = TranscoderConfig(layer=0, d_in=D, d_out=D, n_features=FEATURES)
    made = Transcoder(
        cfg, W_enc=rows.T, b_enc=torch.arange(FEATURES) / 1e3, W_dec=rows, b_dec=torch.zeros(D)
    )
    return made.requires_grad_(False)


def resident(tensor: Tensor) -> int:
    """Bytes of the file that holds the tensor which are mapped into this process now."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if "-" in line.split()[0]]
    for i in starts:
        low, high = (int(address, 16) for address in lines[i].split()[0].split("-"))
        if low <= tensor.data_ptr() < high:
            rss = next(line for line in lines[i:] if line.startswith("Rss:"))
            return 1024 * int(rss.split()[1])
    raise AssertionError("not mapped")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_encoders, "BLOCK", 16_384)


def test_pages_of_a_file_are_told_from_memory(tmp_path: Path) -> None:
    rows = mapped(tmp_path)
    assert lies_in_file(rows)
    assert not lies_in_file(rows.clone())
    assert not lies_in_file(rows[:0])


def test_given_back_pages_are_read_again(tmp_path: Path) -> None:
    rows = mapped(tmp_path)
    copy = rows.clone()
    assert resident(rows) > rows.nbytes / 2
    give_back(rows)
    assert resident(rows) == 0
    assert torch.equal(rows, copy)


def test_what_was_written_is_not_lost(tmp_path: Path) -> None:
    rows = mapped(tmp_path)
    rows.data[FEATURES // 2] = 7.0
    copy = rows.clone()
    give_back(rows)
    assert torch.equal(rows, copy)
    own = copy.clone()
    give_back(own)
    assert torch.equal(own, copy)


@pytest.mark.usefixtures("small_blocks")
def test_blocks_compute_what_the_whole_computes(tmp_path: Path) -> None:
    rows, x = mapped(tmp_path), torch.randn(3, 7, D)
    found = transcoder(rows).encode(x)
    assert resident(rows) == 0
    torch.testing.assert_close(found, transcoder(rows.clone()).encode(x), rtol=1e-5, atol=1e-5)
    x.requires_grad_(True)
    torch.testing.assert_close(
        torch.autograd.grad(transcoder(rows).encode(x).sum(), x),
        torch.autograd.grad(transcoder(rows.clone()).encode(x).sum(), x),
        rtol=1e-5,
        atol=1e-4,
    )


@pytest.mark.usefixtures("small_blocks")
def test_the_number_of_threads_is_what_it_was(tmp_path: Path) -> None:
    made, before = transcoder(mapped(tmp_path)), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made.encode(torch.randn(3, D))
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError):
            made.pre_activations(torch.randn(3, D).double())
        assert torch.get_num_threads() == 2
        made.encode(torch.randn(mapped_encoders.FEW + 1, D))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("small_blocks")
def test_an_edited_encoder_stays_edited(tmp_path: Path) -> None:
    made, x = transcoder(mapped(tmp_path)), torch.randn(3, D)
    made.encode(x)
    made.W_enc.data[:, 11] = 0.0
    made.b_enc.data[11] = 5.0
    for _ in range(2):
        assert (made.encode(x)[:, 11] == 5.0).all()
