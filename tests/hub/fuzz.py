"""Changed files of every published layout: `python -m tests.hub.fuzz --minutes 10 --format dunefsky`.

Whatever is done to the files, only TranscoderFormatError, ConfigError and HubError may leave `load`. A batch
is determined by its layout, case and seed, so a failure is found again with `--seed`.
"""

import argparse
import inspect
import pkgutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from hypothesis import HealthCheck, given, seed, settings

from tests.hub import published
from tests.hub.mutations import Edit, apply, edits
from tl_transcoders.errors import ConfigError, HubError, TranscoderFormatError
from tl_transcoders.hub import load

EXPECTED = (TranscoderFormatError, ConfigError, HubError)
BATCH = 200


@dataclass(frozen=True, slots=True)
class Case:
    """One way to write a layout's files."""

    layout: str
    name: str
    write: Callable[[Path], object]

    def __str__(self) -> str:
        return f"{self.layout}-{self.name}"


def cases(layout: str | None = None) -> Iterator[Case]:
    """Of every module of `tests.hub.published`: its writers, and each of its CASES where `write` takes one."""
    for info in pkgutil.iter_modules(published.__path__):
        if layout in (None, info.name):
            yield from _cases_of(info.name, import_module(f"{published.__name__}.{info.name}"))


def _cases_of(layout: str, module: ModuleType) -> Iterator[Case]:
    for name, function in vars(module).items():
        if name.startswith("write") and _needs_only_a_folder(function):
            named = "case" in inspect.signature(function).parameters
            for case in module.CASES if named else [name]:
                options = {"case": case} if named else {}
                yield Case(layout, case, lambda f, w=function, o=options: w(f, **o))


def _needs_only_a_folder(function: Callable[..., object]) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    return required == ["folder"]


def fuzz(case: Case, *, first_seed: int, examples: int) -> Counter[str]:
    """Load `examples` changed sets; what came of them, by the name of the error, "loaded" where none."""
    outcomes: Counter[str] = Counter()
    with TemporaryDirectory() as root:
        written = case.write(Path(root) / "set")
        folder = written if isinstance(written, Path) else Path(root) / "set"
        files = {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

        @seed(first_seed)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(edits())
        def run(changes: list[Edit]) -> None:
            outcomes[_outcome(folder, files, changes)] += 1

        run()
    return outcomes


def _outcome(folder: Path, files: dict[Path, bytes], changes: list[Edit]) -> str:
    changed = dict(files)
    for edit in changes:
        path = list(files)[int(edit.file * len(files))]
        changed[path] = apply(edit, path.name, changed[path])
    touched = [path for path in files if changed[path] != files[path]]
    for path in touched:
        _replace(path, changed[path])
    try:
        load(folder, verify=True)
    except EXPECTED as error:
        return type(error).__name__
    finally:
        for path in touched:
            _replace(path, files[path])
    return "loaded"


def _replace(path: Path, content: bytes) -> None:
    """A new file in its place: an earlier one may still be mapped."""
    path.unlink()
    path.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--format", help="a module of tests.hub.published; all of them if left out")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    chosen = list(cases(options.format))
    end = time.monotonic() + 60 * options.minutes
    outcomes: Counter[str] = Counter()
    for first_seed in count(options.seed):
        for case in chosen:
            if time.monotonic() > end:
                print(f"{outcomes.total():,} inputs: {dict(outcomes)}")
                return
            print(f"{case}, seed {first_seed}: {outcomes.total():,} so far", flush=True)
            outcomes += fuzz(case, first_seed=first_seed, examples=BATCH)


if __name__ == "__main__":
    main()
