from pathlib import Path

import pytest

from examples.cache import build_once, cache_root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TLT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder: Path, scratch: Path) -> None:
    (scratch / "download").write_text("left behind")
    (folder / "file").write_text("whole")


def test_it_builds_once_and_keeps_only_the_result(cache: Path) -> None:
    def refuse(folder: Path, scratch: Path) -> None:
        raise AssertionError("built twice")

    target = build_once("things/one", write)
    assert build_once("things/one", refuse) == target == cache / "things" / "one"
    assert [path.relative_to(cache).as_posix() for path in sorted(cache.rglob("*"))] == [
        "things",
        "things/one",
        "things/one/file",
    ]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_build_leaves_nothing(cache: Path, error: type[BaseException]) -> None:
    def fail(folder: Path, scratch: Path) -> None:
        write(folder, scratch)
        raise error

    with pytest.raises(error):
        build_once("thing", fail)
    assert list(cache.iterdir()) == []


def test_of_two_builders_the_first_wins(cache: Path) -> None:
    def overtaken(folder: Path, scratch: Path) -> None:
        (folder / "file").write_text("late")
        build_once("thing", write)

    assert (build_once("thing", overtaken) / "file").read_text() == "whole"


def test_the_default_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TLT_CACHE")
    assert cache_root() == Path.home() / ".cache" / "tl_transcoders"
