"""Debian packages as plain files: downloaded and unpacked, never installed."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def download(packages: Iterable[str], folder: Path) -> dict[str, Path]:
    """The .deb file of each package, fetched into `folder`, by package name; refreshes apt's lists when it must.

    Raises RuntimeError where there is no apt-get or a package cannot be had.
    """
    names = list(packages)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not _apt_get("download", *names, folder=folder):
            _apt_get("update", folder=folder)
            if not _apt_get("download", *names, folder=folder):
                raise RuntimeError(
                    f"apt-get could not download {', '.join(names)}; its own message is above."
                )
    except FileNotFoundError as e:
        raise RuntimeError("apt-get was not found; this needs Debian or a system like it.") from e
    return {deb.name.partition("_")[0]: deb for deb in sorted(folder.glob("*.deb"))}


def unpack(deb: Path, root: Path) -> Path:
    """Unpack the files of a package under `root`, and return it."""
    subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
    return root


def dependencies(deb: Path) -> list[str]:
    """The package names a package depends on, the first of each choice."""
    field = subprocess.run(
        ["dpkg-deb", "-f", deb, "Depends"], capture_output=True, text=True, check=True
    ).stdout
    return [clause.split()[0].partition(":")[0] for clause in field.split(",") if clause.strip()]


def _apt_get(*arguments: str, folder: Path) -> bool:
    return (
        subprocess.run(
            ["apt-get", *arguments], cwd=folder, stdout=sys.stderr, check=False
        ).returncode
        == 0
    )
