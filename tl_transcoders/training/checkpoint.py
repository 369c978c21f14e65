"""The state of a training run on disk, whole or not at all."""

import json
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_transcoders.errors import HubError
from tl_transcoders.hub import save
from tl_transcoders.hub.files import sync
from tl_transcoders.hub.save import disk_errors
from tl_transcoders.training.stream import Position
from tl_transcoders.transcoders import CrossLayerTranscoder, TranscoderSet

STATE: Final = "training.safetensors"
_STEP = re.compile(r"step-(\d+)")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come."""

    steps: int = 0
    tokens: int = 0
    position: Position = field(default_factory=Position)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A run at rest: its description (what is trained, on which layers), its progress, and every tensor."""

    run: dict[str, object]
    progress: Progress
    tensors: Mapping[str, Tensor]


def write_checkpoint(
    folder: Path, checkpoint: Checkpoint, transcoders: TranscoderSet | CrossLayerTranscoder
) -> Path:
    """Write `folder/step-N` and remove the checkpoints before it.

    The new folder is complete before it gets its name, and the old one goes only then. It holds the
    transcoders as `save` writes them, so that it can be loaded, and `training.safetensors`.

    **Raises:** HubError where it cannot be written; the checkpoint before it is then still there.
    """
    target = folder / f"step-{checkpoint.progress.steps:08d}"
    if target.exists():
        return target
    new = folder / f".{target.name}.new"
    with disk_errors(folder):
        shutil.rmtree(new, ignore_errors=True)
        try:
            save(transcoders, new)
            _write_state(new / STATE, checkpoint)
            new.rename(target)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    for old in _checkpoints(folder):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def check_writable(folder: Path) -> None:
    """Make the folder where it is not there, and raise HubError where no checkpoint could be written into it."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex[:8]}.new"
        probe.mkdir()
        probe.rmdir()


def has_checkpoint(folder: str | Path) -> bool:
    """Whether a folder holds a checkpoint."""
    return bool(_checkpoints(Path(folder)))


def last_checkpoint(folder: str | Path) -> Path:
    """The newest checkpoint in a folder; `load` reads its transcoders.

    **Raises:** HubError where there is none.
    """
    found = _checkpoints(Path(folder))
    if not found:
        raise HubError(
            str(folder),
            got="no checkpoint",
            expected="a folder with a checkpoint step-N",
            do="Name the folder given as TrainConfig.checkpoint.",
        )
    return found[-1]


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """The newest checkpoint in a folder.

    **Raises:** HubError where there is none, or it cannot be read.
    """
    path = last_checkpoint(folder) / STATE
    try:
        with safe_open(path, framework="pt") as file:
            data = json.loads(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        position = Position(**data.pop("position"))
        return Checkpoint(
            run=data.pop("run"), progress=Progress(**data, position=position), tensors=tensors
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise HubError(
            str(path),
            got=f"an unreadable file ({error})",
            expected="the state of a training run",
            do="Delete the folder and resume from another checkpoint, or start again.",
        ) from error


def _write_state(path: Path, checkpoint: Checkpoint) -> None:
    progress = checkpoint.progress
    data = {
        "run": checkpoint.run,
        "steps": progress.steps,
        "tokens": progress.tokens,
        "position": {"row": progress.position.row, "batch": progress.position.batch},
    }
    save_file(dict(checkpoint.tensors), path, metadata={"progress": json.dumps(data)})
    sync(path)


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if _STEP.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))
