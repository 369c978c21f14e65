"""Lying files in every safetensors layout: each is refused, at once and without taking memory."""

import json
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.hub.client import Client
from tests.hub.formats import hostile
from tests.hub.formats.compare import refusal
from tests.hub.formats.layouts import Layout
from tests.hub.hostile.watch import refused
from tl_transcoders.errors import HubError, TLTranscodersError
from tl_transcoders.hub import load

FIFTY_MEGABYTES = 50 * 2**20


@pytest.mark.parametrize("lie", hostile.WEIGHTS, ids=lambda lie: lie.__name__)
def test_weights_that_lie(layout: Layout, folder: Path, lie: Callable[[Path], None]) -> None:
    load(folder, **layout.request)
    lie(folder / layout.weights)
    assert "while reading layer" in refusal(folder, **layout.request).__notes__[0]


@pytest.mark.parametrize("bomb", hostile.BOMBS, ids=lambda bomb: bomb.__name__)
def test_headers_that_are_large(layout: Layout, folder: Path, bomb: Callable[[Path], None]) -> None:
    load(folder, **layout.request)
    bomb(folder / layout.weights)
    assert len(str(refused(folder, **layout.request))) < 2_000


@pytest.mark.parametrize("lie", hostile.NOT_FINITE, ids=lambda lie: lie.__name__)
def test_weights_that_are_not_finite(
    layout: Layout, folder: Path, lie: Callable[[Path], None]
) -> None:
    lie(folder / layout.weights)
    assert refusal(folder, **layout.request, verify=True).expected == "finite weights"


@pytest.mark.parametrize("which", ["weights", "config"])
def test_links_that_leave_the_folder(layout: Layout, folder: Path, which: str) -> None:
    path = folder / getattr(layout, which)
    elsewhere = folder.parent / path.name
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert refusal(folder, **layout.request).got == "a file name that leaves the folder"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"x"', "null", "[" * 100_000, "\0", '{"a": NaN', "{}", '{"architecture": {}}'],
)
def test_configs_that_are_none(layout: Layout, folder: Path, text: str) -> None:
    (folder / layout.config).write_text(text, encoding="utf-8")
    refusal(folder, **layout.request)


def test_a_config_of_bytes(layout: Layout, folder: Path) -> None:
    (folder / layout.config).write_bytes(b"\xff\xfe\x00\x80")
    assert "no valid JSON" in refusal(folder, **layout.request).got


@pytest.mark.parametrize(
    "value",
    ["../../etc/hostname", "/etc/hostname", "a\0b", "9" * 5000, 10**400, -1, 1e308, True, {}, [[]]],
)
def test_odd_values_raise_nothing_else(layout: Layout, folder: Path, value: object) -> None:
    path = folder / layout.config
    honest = json.loads(path.read_text())
    for key in honest:
        path.write_text(json.dumps({**honest, key: value}))
        with suppress(TLTranscodersError):
            load(folder, **layout.request)


def _peak_growth(folder: Path, request: dict[str, Any]) -> tuple[str, int]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load(folder, **request)
    except TLTranscodersError as error:
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return error.got, (after - before) * 1024
    raise AssertionError("accepted")


@pytest.mark.parametrize("which", ["weights", "config"])
def test_two_hundred_megabytes_take_no_memory(
    layout: Layout, folder: Path, client: Client, which: str
) -> None:
    hostile.two_hundred_megabytes(folder / getattr(layout, which))
    got, taken = client.run(_peak_growth, folder, layout.request)
    assert taken < FIFTY_MEGABYTES
    assert which == "weights" or got == "200,000,000 bytes"


@pytest.mark.parametrize(
    "source",
    ["org/$(touch x)", "org/`id`", "org/a;b", "org/a|b", "org/a b", "org/..", "../x", "-org/x"],
)
def test_repository_names_with_shell_characters(source: str) -> None:
    with pytest.raises(HubError, match="neither an existing folder"):
        load(source)
