import runpy
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tl_transcoders.cli import app


def test_the_demo_prints_its_parts(tmp_path: Path) -> None:
    out = tmp_path / "graph.html"
    result = CliRunner().invoke(app, ["demo", "--out", str(out)], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    for part in (
        "The war lasted from the year 1742 to the year 17",
        "MLPs ablated",
        "greater-than score",
        "KL(original",
        "Features at the last position",
        "the first 5 of",
        "switched off",
        "years up to 42",
        "push the answer above 42",
        "replacement score",
        "key nodes",
        "strongest edges",
        "Strongest paths from '42'",
    ):
        assert part in " ".join(result.output.split())
    for noise in ("Origin", "<|"):
        assert noise not in result.output
    assert "</svg></body></html>" in out.read_text(encoding="utf-8")


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.output == f"tl-transcoders {version('tl-transcoders')}\n"


def test_help_lists_the_verbs() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "demo" in result.output


def test_python_m_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tl-transcoders", "--version"])
    with pytest.raises(SystemExit):
        runpy.run_module("tl_transcoders", run_name="__main__")
    assert capsys.readouterr().out.startswith("tl-transcoders ")
