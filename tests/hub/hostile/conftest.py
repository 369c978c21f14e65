from pathlib import Path

import pytest

from tests.hub.published import dunefsky, gemma_scope
from tl_transcoders.hub import load


@pytest.fixture(scope="session", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Load good sets, so that what libraries do on first use is done."""
    folder: Path = tmp_path_factory.mktemp("good")
    dunefsky.write(folder / "pickles")
    load(folder / "pickles")
    load(gemma_scope.write(folder))
