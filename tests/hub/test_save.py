"""A folder holds the old set or the new one, whatever happens while saving."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hub.samples import assert_same, transcoder, transcoder_set
from tl_transcoders.errors import HubError
from tl_transcoders.hub import load, save
from tl_transcoders.transcoders import Transcoder, TranscoderSet


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk does, by the kernel's hand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    big = transcoder(d_in=64, d_out=64, n_features=1024)
    with largest_file(100_000), pytest.raises(HubError, match="Free space") as caught:
        save(big, tmp_path / "deep" / "set")
    assert "File too large" in caught.value.got
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_full_disk_leaves_the_old_set_alone(tmp_path: Path) -> None:
    old = transcoder()
    folder = save(old, tmp_path / "set")
    with largest_file(100_000), pytest.raises(HubError):
        save(transcoder(d_in=64, d_out=64, n_features=1024), folder, overwrite=True)
    _assert_holds(folder, old)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_whatever_fails_the_old_set_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, step: str
) -> None:
    old = transcoder_set(1, 2)
    folder = save(old, tmp_path / "set")
    calls = 0

    def second_call_fails(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise failure
        return real(*args)

    owner = os if step == "fsync" else Path
    real = getattr(owner, step)
    monkeypatch.setattr(owner, step, second_call_fails)
    expected = HubError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        save(transcoder_set(1, 2, 3), folder, overwrite=True)
    assert calls >= 2
    monkeypatch.undo()
    _assert_holds(folder, old[1])


def test_overwriting_replaces_every_file(tmp_path: Path) -> None:
    folder = save(transcoder_set(1, 2), tmp_path / "set")
    new = transcoder(5)
    save(new, folder, overwrite=True)
    _assert_holds(folder, new)
    assert sorted(p.name for p in folder.iterdir()) == ["layer_5.safetensors", "transcoders.json"]


def test_a_set_can_be_saved_over_the_files_it_is_mapped_from(tmp_path: Path) -> None:
    original = transcoder()
    folder = save(original, tmp_path / "set")
    loaded = load(folder)
    save(loaded, folder, overwrite=True)
    _assert_holds(folder, original)


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    _assert_holds(save(transcoder(), tmp_path / "set"), transcoder())


def test_a_symlink_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    save(transcoder(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "transcoders.json").exists()


def test_the_files_have_the_modes_a_user_expects(tmp_path: Path) -> None:
    folder = save(transcoder(), tmp_path / "set")
    (tmp_path / "plain").write_text("")
    expected = (tmp_path / "plain").stat().st_mode & 0o777
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {expected}


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    folder = save(transcoder(), tmp_path / "set")
    with pytest.raises(HubError) as caught:
        save(transcoder(), folder)
    assert str(caught.value) == (
        f"{folder}: got a folder that is not empty; expected a new or empty folder. "
        "Choose another one, or pass overwrite=True to replace a saved set."
    )


def test_overwrite_never_deletes_other_files(tmp_path: Path) -> None:
    folder = save(transcoder(), tmp_path / "set")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(HubError, match=r"also holds notes\.txt"):
        save(transcoder(), folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(HubError, match="got a file"):
        save(transcoder(), tmp_path / "file", overwrite=True)


def _assert_holds(folder: Path, expected: Transcoder) -> None:
    """`folder` holds a whole set with this transcoder in it, and no sibling was left."""
    loaded = load(folder, verify=True)
    assert isinstance(loaded, TranscoderSet)
    assert_same(loaded[expected.cfg.layer], expected)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
