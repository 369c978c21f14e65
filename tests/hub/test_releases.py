"""The table of known public sets, and loading by their names."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import tl_transcoders as tlt
from tests.hub.client import Client
from tests.hub.repositories import Hub
from tests.hub.samples import assert_same, transcoder, transcoder_set
from tl_transcoders.cli import app
from tl_transcoders.errors import HubError
from tl_transcoders.hub import Release, load, releases, save
from tl_transcoders.hub.place import is_repo_id
from tl_transcoders.hub.releases import Choice, resolve_name
from tl_transcoders.transcoders import TranscoderConfig

EVERY = list(releases())
QWEN = "mwhanna-qwen3-0.6b-transcoders-lowl0"
GEMMA = "gemma-scope-2-270m-pt-transcoders-all"


def choice(source: str | Path, **given: str | None) -> Choice:
    nothing = {"revision": None, "width": None, "l0": None, "kind": None}
    return Choice(source=source, **{**nothing, **given})


def find(name: str) -> Release:
    return next(release for release in EVERY if release.name == name)


def test_names_are_unique_and_no_repository_ids() -> None:
    names = [release.name for release in EVERY]
    assert len(set(names)) == len(names)
    assert not any(set("/@ ") & set(name) for name in names)


@pytest.mark.parametrize("release", EVERY, ids=lambda release: release.name)
def test_a_release_is_well_formed(release: Release) -> None:
    assert is_repo_id(release.repo)
    assert is_repo_id(release.model)
    assert release.layers == tuple(sorted(set(release.layers)))
    assert (release.read is None) == (release.write is None)
    if release.read is not None and release.write is not None:
        TranscoderConfig(
            layer=0, d_in=5, d_out=5, n_features=11, read=release.read, write=release.write
        )


@pytest.mark.parametrize(
    ("name", "tap"),
    [
        ("gpt2-dunefsky", "ln2_normalized → mlp_out (processed)"),
        ("gemma-scope-2b-pt-transcoders", "ln2_normalized → mlp_out"),
        (GEMMA, "mlp_in → mlp_out"),
        (QWEN, "mlp_in → mlp_out_raw"),
        ("llama-3.2-1b-skip-eleuther", "mlp_in → mlp_out_raw"),
        ("llama-3.2-1b-mntss", "resid_mid → mlp_out_raw"),
        ("llama-3.2-1b-skip-mntss", "as its config says"),
    ],
)
def test_the_tap_of_every_family(name: str, tap: str) -> None:
    assert find(name).tap == tap


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("GPT2", {"openai-community/gpt2"}),
        ("gemma-3-270m", {"google/gemma-3-270m", "google/gemma-3-270m-it"}),
        ("smollm2", {"HuggingFaceTB/SmolLM2-135M"}),
        ("bert", set()),
    ],
)
def test_filtering_by_model(model: str, expected: set[str]) -> None:
    assert {release.model for release in releases(model)} == expected


def test_how_the_table_reads() -> None:
    table = tlt.releases("gpt2")
    head, first, *_ = str(table).splitlines()
    assert head.split() == [
        "name",
        "repository",
        "model",
        "kind",
        "layers",
        "width",
        "L0",
        "tap",
        "licence",
    ]
    assert first.split()[:5] == [
        "gpt2-dunefsky",
        "pchlenski/gpt2-transcoders@4f3ca34",
        "openai-community/gpt2",
        "transcoder",
        "0–11",
    ]
    assert table[0] == table[:1][0] == find("gpt2-dunefsky")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(releases())
    text = console.export_text()
    assert all(release.name in text for release in EVERY)
    assert "layers 5, 9, 12, 15" in text


def test_a_name_brings_its_repository_and_defaults() -> None:
    assert resolve_name(choice(GEMMA)) == choice(
        "google/gemma-scope-2-270m-pt", kind="transcoder_all", width="16k", l0="small"
    )
    assert resolve_name(choice("gpt2-dunefsky")) == choice(
        "pchlenski/gpt2-transcoders", revision="4f3ca345572ce2d75018a60d10b4dca8bd899e99"
    )


def test_what_the_caller_chooses_wins() -> None:
    given = {"kind": "transcoder_all_affine", "width": "262k", "l0": "big", "revision": "main"}
    assert resolve_name(choice(GEMMA, **given)) == choice("google/gemma-scope-2-270m-pt", **given)
    assert resolve_name(choice("gpt2-dunefsky", revision="main")).revision == "main"
    assert resolve_name(choice("gpt2-dunefsky@main")) == choice("pchlenski/gpt2-transcoders@main")


@pytest.mark.parametrize("source", ["org/repo", "org/repo@main", "folder", "", Path(GEMMA)])
def test_any_other_source_is_left_alone(source: str | Path) -> None:
    assert resolve_name(choice(source, width="16k")) == choice(source, width="16k")


def test_a_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(transcoder(), "gpt2-dunefsky")
    loaded = load("gpt2-dunefsky")
    assert isinstance(loaded, tlt.TranscoderSet)
    assert_same(loaded[3], transcoder())


def test_loading_by_name(hub: Hub, client: Client, tmp_path: Path) -> None:
    commit = hub.publish(find(QWEN).repo, save(transcoder_set(1, 4), tmp_path / "set"))
    loaded = client.run(load, QWEN, layers=[4])
    assert isinstance(loaded, tlt.TranscoderSet)
    assert_same(loaded[4], transcoder_set(4)[4])
    assert (loaded.origin.source, loaded.origin.revision) == (find(QWEN).repo, commit)
    assert hub.downloads() == {"transcoders.json", "layer_4.safetensors"}


def test_a_pinned_revision_is_what_is_asked_for(hub: Hub, client: Client, tmp_path: Path) -> None:
    commit = hub.publish("pchlenski/gpt2-transcoders", save(transcoder(), tmp_path / "set"))
    with pytest.raises(HubError, match="4f3ca345572ce2d75018a60d10b4dca8bd899e99"):
        client.run(load, "gpt2-dunefsky")
    for source, revision in (("gpt2-dunefsky@main", None), ("gpt2-dunefsky", commit)):
        loaded = client.run(load, source, revision=revision)
        assert loaded.origin.revision == commit


def test_the_command() -> None:
    result = CliRunner().invoke(app, ["releases", "--model", "gpt2"], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    assert "gpt2-dunefsky" in result.output
    assert "qwen" not in result.output.lower()
    nothing = CliRunner().invoke(app, ["releases", "--model", "bert"])
    assert nothing.exit_code == 1
    assert "No known release for 'bert'" in nothing.output
