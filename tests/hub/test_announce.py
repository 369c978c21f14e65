"""How much a download takes is said, and checked, before it begins."""

from collections import namedtuple
from pathlib import Path
from unittest import mock

import pytest

from tests.hub.client import Client
from tests.hub.repositories import Hub
from tests.hub.samples import transcoder_set
from tl_transcoders.errors import HubError
from tl_transcoders.hub import load, save
from tl_transcoders.hub.announce import announce, readable

Usage = namedtuple("Usage", "total used free")


def test_said_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce("org/repo@1a2b", [2_000_000_000, 341_000_000], tmp_path / "not" / "yet")
    assert capsys.readouterr().err == "Downloading 2 files, 2.34 GB, from org/repo@1a2b\n"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_700, "1 MB"), (1.7e14, "170 TB")],
)
def test_readable(size: int | float, text: str) -> None:
    assert readable(size) == text


def _load_on_a_full_disk(source: str) -> None:
    with mock.patch("tl_transcoders.hub.announce.shutil") as shutil:
        shutil.disk_usage.return_value = Usage(10, 9, 1)
        load(source, layers=[1])


def test_nothing_is_fetched_onto_a_full_disk(hub: Hub, client: Client, tmp_path: Path) -> None:
    hub.publish("org/room", save(transcoder_set(1, 2), tmp_path / "set"))
    with pytest.raises(HubError, match=r"and 1 bytes free on the disk; expected room") as caught:
        client.run(_load_on_a_full_disk, "org/room")
    assert "layers=" in caught.value.do
    assert hub.downloads() == {"transcoders.json"}


def test_what_is_cached_is_not_asked_for_again(hub: Hub, client: Client, tmp_path: Path) -> None:
    hub.publish("org/cached", save(transcoder_set(1, 2), tmp_path / "set"))
    client.run(load, "org/cached", layers=[1])
    hub.requests.clear()
    client.run(load, "org/cached", layers=[1])
    assert not any("/tree/" in request or "/resolve/" in request for request in hub.requests)
