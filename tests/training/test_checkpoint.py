"""Runs that stop and go on."""

import errno
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import Host
from tests.training.models import config, model, tokens
from tl_transcoders.errors import ConfigError, HubError
from tl_transcoders.hub import load
from tl_transcoders.training import checkpoint, last_checkpoint, train, train_cross_layer
from tl_transcoders.training.interrupt import DeferredInterrupt
from tl_transcoders.transcoders import BatchTopK, JumpReLU, ReLU, TopK, TranscoderSet

BATCHES_OF_A_BLOCK = 4


class StoppedError(Exception):
    """Stands for a crash between two steps."""


def stop_after(n_steps: int) -> Any:
    steps: list[int] = []

    def on_step(n_tokens: int, _: object) -> None:
        steps.append(n_tokens)
        if len(steps) == n_steps:
            raise StoppedError

    return on_step


def assert_same_bytes(a: TranscoderSet, b: TranscoderSet) -> None:
    assert a.layers == b.layers
    for layer in a:
        for (name, p), (_, q) in zip(
            a[layer].named_parameters(), b[layer].named_parameters(), strict=True
        ):
            assert torch.equal(p, q), f"{layer}.{name}"


@pytest.mark.parametrize("activation", [TopK(5), BatchTopK(5), JumpReLU(), ReLU()], ids=repr)
@pytest.mark.parametrize("stop", [3, BATCHES_OF_A_BLOCK, 9])
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path: Path, activation: Any, stop: int) -> None:
    given = {"layers": [0, 1], "tokens": tokens()}
    whole = train(model(), config=config(activation=activation), **given)
    kept = config(activation=activation, checkpoint=str(tmp_path / "run"), checkpoint_every=1)
    with pytest.raises(StoppedError):
        train(model(), config=kept, on_step=stop_after(stop), **given)
    assert last_checkpoint(tmp_path / "run").name == f"step-{stop - 1:08d}"
    again = train(model(), config=kept, resume=tmp_path / "run", **given)
    assert_same_bytes(whole, again)


def test_a_resumed_cross_layer_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    kept = config(skip=True, checkpoint=tmp_path, checkpoint_every=2)
    whole = train_cross_layer(model(), config=config(skip=True), tokens=tokens())
    with pytest.raises(StoppedError):
        train_cross_layer(model(), config=kept, tokens=tokens(), on_step=stop_after(6))
    again = train_cross_layer(model(), config=kept, tokens=tokens(), resume=tmp_path)
    for (name, p), (_, q) in zip(whole.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(p, q), name


def test_an_iterable_that_begins_again_resumes_too(tmp_path: Path) -> None:
    given = {"layers": [1], "config": config(n_tokens=900)}
    whole = train(model(), tokens=iter(tokens().split(8)), **given)
    kept = config(n_tokens=900, checkpoint=str(tmp_path), checkpoint_every=1)
    with pytest.raises(StoppedError):
        train(
            model(), layers=[1], config=kept, tokens=iter(tokens().split(8)), on_step=stop_after(7)
        )
    again = train(model(), layers=[1], config=kept, tokens=iter(tokens().split(8)), resume=tmp_path)
    assert_same_bytes(whole, again)


def test_a_finished_run_resumes_to_itself_and_loads(tmp_path: Path) -> None:
    kept = config(checkpoint=str(tmp_path))
    done = train(model(), layers=[2], config=kept, tokens=tokens())
    assert_same_bytes(
        done, train(model(), layers=[2], config=kept, tokens=tokens(), resume=tmp_path)
    )
    loaded = load(last_checkpoint(tmp_path))
    assert isinstance(loaded, TranscoderSet)
    assert_same_bytes(done, loaded)
    assert loaded.origin.model_name == "tiny/gpt2"


def test_one_checkpoint_is_kept_and_nothing_else(tmp_path: Path) -> None:
    train(
        model(),
        layers=[0],
        config=config(checkpoint=str(tmp_path), checkpoint_every=2),
        tokens=tokens(),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000015"]


def test_ctrl_c_leaves_a_checkpoint_that_loads_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.training.interrupted_run", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("tokens"):
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    assert "KeyboardInterrupt\ntraining stopped after" in errors
    assert f"train(..., resume={str(folder)!r}) continues" in errors
    assert load(last_checkpoint(folder)).layers == (0, 1)
    given = {"layers": [0, 1], "tokens": tokens()}
    resumed = train(model(), config=config(), resume=folder, **given)
    assert_same_bytes(resumed, train(model(), config=config(), **given))


@pytest.fixture
def python_handles_sigint() -> Iterator[None]:
    """As in a terminal; a process started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_sigint")
def test_a_signal_is_deferred_once_and_the_handler_put_back() -> None:
    with DeferredInterrupt() as interrupt:
        assert not interrupt.pending
        signal.raise_signal(signal.SIGINT)
        assert interrupt.pending
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


OTHER_RUNS = {
    "seed": ({"config": config(seed=1)}, "got seed=1; expected seed=0"),
    "lr": ({"config": config(lr=0.5)}, "got lr=0.5; expected lr=None"),
    "layers": ({"layers": [0]}, "got layers=[0]; expected layers=[0, 1]"),
    "tokens": ({"tokens": tokens()[:50]}, "got n_tokens=750; expected n_tokens=900"),
}


@pytest.mark.parametrize(("change", "message"), OTHER_RUNS.values(), ids=OTHER_RUNS)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    given = {"layers": [0, 1], "tokens": tokens()}
    kept = config(checkpoint=str(tmp_path), checkpoint_every=1)
    with pytest.raises(StoppedError):
        train(model(), config=kept, on_step=stop_after(2), **given)
    with pytest.raises(ConfigError) as raised:
        train(model(), **{"config": config(), **given, **change}, resume=tmp_path)
    assert message in str(raised.value)


def test_a_folder_with_a_checkpoint_is_not_begun_anew(tmp_path: Path) -> None:
    kept = config(checkpoint=str(tmp_path), n_tokens=60)
    train(model(), layers=[0], config=kept, tokens=tokens())
    with pytest.raises(ConfigError, match="Pass resume= to continue that run"):
        train(model(), layers=[0], config=kept, tokens=tokens())


def test_a_run_does_not_go_on_among_the_checkpoints_of_another(tmp_path: Path) -> None:
    given = {"layers": [0], "tokens": tokens()}
    mine, other = tmp_path / "mine", tmp_path / "other"
    train(model(), config=config(checkpoint=other, n_tokens=60, seed=1), **given)
    with pytest.raises(StoppedError):
        train(
            model(),
            config=config(checkpoint=mine, checkpoint_every=1),
            on_step=stop_after(3),
            **given,
        )
    before = last_checkpoint(other)
    with pytest.raises(ConfigError, match=r"other, which holds a checkpoint; .* or .*mine\."):
        train(model(), config=config(checkpoint=other), resume=mine, **given)
    assert last_checkpoint(other) == before
    elsewhere = config(checkpoint=tmp_path / "third")
    resumed = train(model(), config=elsewhere, resume=mine, **given)
    assert_same_bytes(resumed, train(model(), config=config(), **given))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    given = {"layers": [0], "tokens": tokens()}
    train(model(), config=config(checkpoint=tmp_path), **given)
    for other, message in (
        (Host("llama-gqa", "bridge", False).build(), "model_name='tiny/llama-gqa'"),
        (model(processed=True), "got folded=True; expected folded=False"),
    ):
        with pytest.raises(ConfigError) as raised:
            train(other, config=config(), resume=tmp_path, **given)
        assert message in str(raised.value)
    with pytest.raises(ConfigError, match="cross_layer=True"):
        train_cross_layer(model(), config=config(), resume=tmp_path, **given)


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    steps: list[int] = []
    with pytest.raises(HubError, match="got an error while writing"):
        train(
            model(),
            layers=[0],
            config=config(checkpoint=tmp_path / "file" / "run"),
            tokens=tokens(),
            on_step=lambda n, _: steps.append(n),
        )
    assert steps == []


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="got no checkpoint; expected a folder with a checkpoint"):
        train(model(), layers=[0], config=config(), tokens=tokens(), resume=tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "gone", "not ours"])
def test_a_damaged_checkpoint_says_so(tmp_path: Path, damage: str) -> None:
    train(model(), layers=[0], config=config(checkpoint=str(tmp_path)), tokens=tokens())
    path = last_checkpoint(tmp_path) / checkpoint.STATE
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "gone":
            path.unlink()
        case _:
            shutil.copy(next(path.parent.glob("layer_*")), path)
    with pytest.raises(HubError, match="got an unreadable file"):
        train(model(), layers=[0], config=config(), tokens=tokens(), resume=tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    save_file = checkpoint.save_file

    def fill_up(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        written.append(len(tensors))
        if len(written) == 3:
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", fill_up)
    kept = config(checkpoint=str(tmp_path), checkpoint_every=2)
    with pytest.raises(HubError, match="No space left on device"):
        train(model(), layers=[0], config=kept, tokens=tokens())
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]
    monkeypatch.undo()
    resumed = train(model(), layers=[0], config=kept, tokens=tokens(), resume=tmp_path)
    assert_same_bytes(resumed, train(model(), layers=[0], config=config(), tokens=tokens()))
