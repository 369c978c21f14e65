from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.client import Client
from tests.hub.repositories import Faults, Hub
from tests.hub.server import serve


@pytest.fixture(scope="session")
def _hub_and_address() -> Iterator[tuple[Hub, str]]:
    hub = Hub()
    with serve(hub) as address:
        yield hub, address


@pytest.fixture(scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf_home")


@pytest.fixture(scope="session")
def _client(_hub_and_address: tuple[Hub, str], _home: Path) -> Iterator[Client]:
    client = Client(_hub_and_address[1], _home)
    yield client
    client.close()


@pytest.fixture(scope="session")
def offline(_hub_and_address: tuple[Hub, str], _home: Path) -> Iterator[Client]:
    """A client in offline mode that shares the cache of `client`."""
    client = Client(_hub_and_address[1], _home, offline=True)
    yield client
    client.close()


@pytest.fixture
def client(_client: Client) -> Iterator[Client]:
    """A client of the local hub, logged out."""
    yield _client
    _client.login(None)


@pytest.fixture
def hub(_hub_and_address: tuple[Hub, str]) -> Iterator[Hub]:
    """The local hub, empty and in order."""
    hub = _hub_and_address[0]
    hub.repositories.clear()
    hub.requests.clear()
    hub.faults = Faults()
    yield hub
    hub.faults = Faults()
