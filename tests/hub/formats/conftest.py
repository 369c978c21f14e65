import json
from pathlib import Path

import pytest

from tests.hub.formats.layouts import LAYOUTS, Layout


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


@pytest.fixture
def folder(layout: Layout, tmp_path: Path) -> Path:
    made = tmp_path / "set"
    made.mkdir()
    layout.write(made)
    if not (made / layout.config).exists():
        (made / layout.config).write_text(json.dumps({"architecture": "jump_relu"}))
    return made
