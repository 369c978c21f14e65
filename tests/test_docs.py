"""The runnable code of the documentation runs as it stands, page by page."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize(("page", "n_blocks"), [("formats.md", 4)])
def test_the_examples_run_in_order(
    page: str, n_blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S
    )
    assert len(blocks) == n_blocks
    exec("\n".join(blocks), {})
