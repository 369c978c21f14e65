"""YAML from strangers: plain data or an error, in little time and memory."""

import re
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub.hostile.watch import watched
from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.yaml import MAX_YAML_BYTES, read_yaml

BILLION = "a: &a [lol, lol]\n" + "".join(
    f"{after}: &{after} [{', '.join(f'*{before}' for _ in range(10))}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_plain_values(tmp_path: Path) -> None:
    text = "a: 1\nb: 'x'\nc:\n  - 2.5\n  - null\nd: {e: true}  # f\n"
    expected = {"a": 1, "b": "x", "c": [2.5, None], "d": {"e": True}}
    assert read_yaml(written(tmp_path, text)) == expected


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("a: !!python/object/apply:os.system ['touch hacked']", "a tag, tag:yaml.org,2002:python"),
        ("!!python/object/new:os.system [touch hacked]", "a tag, tag:yaml.org,2002:python"),
        ("a: !!binary aGk=", "a tag, tag:yaml.org,2002:binary"),
        (BILLION, "an alias, *a"),
        ("a: &a [*a]", "an alias, *a"),
        ("[" * 50_000, "more than 20 levels"),
        ("a: [1, 2", "no valid YAML"),
        ("a: 2024-99-99", "no valid YAML"),
        ("a: " + "9" * 5000, "a value of 5,000 characters without quotes"),
        ("a: 0x" + "f" * 5000, "a value of 5,002 characters without quotes"),
        ("? 0x" + "f" * 5000, "a value of 5,002 characters without quotes"),
        ("a: 1" + ":1" * 5000, "a value of 10,001 characters without quotes"),
        ("- 1", "a YAML list"),
        ("1: 2", "a YAML dict"),
        ("", "a YAML NoneType"),
        (b"a: \xff\xfe", "no valid YAML"),
        (b"a: \x00", "no valid YAML"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | bytes, got: str) -> None:
    with pytest.raises(TranscoderFormatError, match=re.escape(got)) as caught:
        read_yaml(written(tmp_path, text))
    assert caught.value.where == "config.yaml"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, "a: 1\n")
    with path.open("r+b") as file:
        file.truncate(200 * 2**20)
    tracemalloc.start()
    with pytest.raises(TranscoderFormatError, match=f"at most {MAX_YAML_BYTES:,}"):
        read_yaml(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("digits", ["0x" + "f" * 1998, "1" + ":1" * 999, "9" * 2000])
def test_the_longest_numbers_can_be_shown(tmp_path: Path, digits: str) -> None:
    assert len(repr(read_yaml(written(tmp_path, f"a: {digits}"))["a"])) > 1000


@pytest.mark.parametrize("item", ["[],", "{},", "?,", "1,", "a,"])
def test_many_small_things(tmp_path: Path, item: str) -> None:
    (tmp_path / "set").mkdir()
    read_yaml(written(tmp_path / "set", "a: 1"))
    path = written(tmp_path / "set", "a: [" + item * (49_000 // len(item)) + "]")
    with watched(path.parent):
        assert len(read_yaml(path)) == 1


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab01:-.!&*[]{},'\"|>#%@ \n\t?<=~_xe+"), max_size=60))
def test_any_text_is_data_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = written(tmp_path_factory.getbasetemp(), text)
    with suppress(TranscoderFormatError):
        assert all(isinstance(key, str) for key in read_yaml(path))
