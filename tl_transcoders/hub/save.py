"""`save`: transcoders to a folder, all of it or nothing."""

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from tl_transcoders.errors import ConfigError, HubError
from tl_transcoders.hub.files import check_named
from tl_transcoders.hub.native_index import INDEX
from tl_transcoders.hub.native_write import write
from tl_transcoders.transcoders import CrossLayerTranscoder, Transcoder, TranscoderSet

Saveable = TranscoderSet | CrossLayerTranscoder | Transcoder

_LAYER = re.compile(r"layer_\d+\.safetensors")


def save(transcoders: Saveable, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write transcoders to `folder` in this package's format and return the folder.

    All files are written to a hidden folder beside it, which takes its place at the end. Whatever happens
    before, a full disk or an interrupt, leaves `folder` as it was and no half-written set behind (a killed
    process leaves the hidden one).

    **Arguments:** `overwrite`, whether to replace a set that is already there. Only a saved set can be
    replaced, never a folder that holds anything else.

    **Raises:** HubError where the folder is not empty, or cannot be written; ConfigError for anything but
    transcoders.

    ```python
    cfg = TranscoderConfig(layer=3, d_in=5, d_out=5, n_features=11)
    save(TranscoderSet({3: Transcoder.init(cfg, seed=0)}), "my-transcoders")
    ```
    """
    saved = as_set(transcoders)
    check_named(folder, "folder")
    with new_folder(Path(folder), overwrite=overwrite) as new:
        write(saved, new)
    return Path(folder)


@contextmanager
def new_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A hidden folder to write to, which takes the place of `folder` at the end and vanishes after an error.

    **Raises:** HubError where `folder` is not empty, or cannot be written.
    """
    target = folder.resolve()
    _check_target(target, overwrite)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _new_sibling(target) as new:
            yield new
            _exchange(new, target)


def as_set(transcoders: Saveable) -> TranscoderSet | CrossLayerTranscoder:
    """A single transcoder as a set of one layer; a set as it is."""
    if isinstance(transcoders, Transcoder):
        return TranscoderSet({transcoders.cfg.layer: transcoders})
    if isinstance(transcoders, TranscoderSet | CrossLayerTranscoder):
        return transcoders
    raise ConfigError(
        "transcoders",
        got=type(transcoders).__name__,
        expected="a Transcoder, TranscoderSet or CrossLayerTranscoder",
        do="Wrap a dict in TranscoderSet.",
    )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of writing inside into a HubError about `folder`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise HubError(
            str(folder),
            got=f"an error while writing: {error}",
            expected="a writable folder on a disk with room for the weights",
            do="Free space or choose another folder, and save again; nothing was left behind.",
        ) from error


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise HubError(
            str(target), got="a file", expected="a folder", do="Choose another name for the folder."
        )
    names = sorted(path.name for path in target.iterdir())
    if names and not overwrite:
        raise HubError(
            str(target),
            got="a folder that is not empty",
            expected="a new or empty folder",
            do="Choose another one, or pass overwrite=True to replace a saved set.",
        )
    foreign = [name for name in names if name != INDEX and not _LAYER.fullmatch(name)]
    if foreign:
        raise HubError(
            str(target),
            got=f"a folder that also holds {', '.join(foreign[:5])}",
            expected="nothing but a saved set to overwrite",
            do="Move the other files away, or choose another folder.",
        )


@contextmanager
def _new_sibling(target: Path) -> Iterator[Path]:
    new = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.new")
    new.mkdir()
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _exchange(new: Path, target: Path) -> None:
    old = new.with_suffix(".old")
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            old.rename(target)
