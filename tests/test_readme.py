"""The README's and the documentation's code runs as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": 6,
    "docs/index.md": 1,
    "docs/concepts.md": 1,
    "docs/kinds.md": 3,
    "docs/formats.md": 4,
    "docs/circuits.md": 9,
    "docs/tutorials/greater_than.md": 5,
    "docs/graphs.md": 8,
    "docs/weights.md": 6,
    "docs/attention.md": 4,
}


@pytest.mark.parametrize(("page", "n_blocks"), PAGES.items())
def test_the_examples_run_in_order(
    page: str, n_blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == n_blocks
    exec("\n".join(blocks), {})


def test_no_other_page_has_code() -> None:
    with_code = {
        str(page.relative_to(ROOT))
        for page in (ROOT / "docs").rglob("*.md")
        if "```python\n" in page.read_text(encoding="utf-8")
    }
    assert with_code == {page for page in PAGES if page.startswith("docs")}
