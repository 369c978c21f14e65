"""At least 12 MB of English out of Debian's text packages: training and evaluation without a data set.

`python -m examples.real_text` builds it and prints its path.
"""

import json
import random
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
import typer
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from examples import kjv
from examples.cache import build_once
from examples.debian import download, unpack
from examples.markup import fortunes, html_paragraphs, pod_paragraphs

PACKAGES = (
    "bible-kjv",
    "bible-kjv-text",
    "debian-handbook",
    "debian-reference-en",
    "fortunes",
    "libreoffice-help-en-us",
    "perl-doc",
)
MINIMUM_BYTES = 12_000_000
CHUNK_CHARACTERS = 2_000
MINIMUM_WORDS = 8
SEED = 0
# Chunks per tokenizer call: enough to use every core, little enough to stop early.
CHUNKS_PER_CALL = 256


def english_text() -> Path:
    """A UTF-8 file of English prose, made on first use: chunks of paragraphs of all packages in one seeded shuffle.

    The same package versions give the same bytes; `packages.json` beside the file lists them.
    Raises RuntimeError where there is no `apt-get`: any other text file will do then.
    """
    return build_once("text/english", _build) / "english.txt"


def token_batches(
    tokenizer: PreTrainedTokenizerBase, path: Path, *, context: int = 128, limit: int | None = None
) -> Int[Tensor, "row {context}"]:
    """Rows of `context` consecutive tokens of the file, in its order; `limit` is the most tokens to return.

    No special tokens are added: no row begins with BOS, and a row may begin inside a sentence. An incomplete last
    row is dropped.
    """
    ids: list[int] = []
    for part in _token_ids(tokenizer, path):
        ids.extend(part)
        if limit is not None and len(ids) >= limit:
            break
    rows = (len(ids) if limit is None else min(len(ids), limit)) // context
    return torch.tensor(ids[: rows * context], dtype=torch.long).view(rows, context)


def _token_ids(tokenizer: PreTrainedTokenizerBase, path: Path) -> Iterator[list[int]]:
    chunks = list(_chunks(path.read_text(encoding="utf-8").split("\n\n")))
    for start in range(0, len(chunks), CHUNKS_PER_CALL):
        texts = [chunk + "\n\n" for chunk in chunks[start : start + CHUNKS_PER_CALL]]
        encoded = tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        yield list(chain.from_iterable(encoded["input_ids"]))


def _build(folder: Path, scratch: Path) -> None:
    debs = download(PACKAGES, scratch / "debs")
    chunks = [chunk for document in _documents(debs, scratch) for chunk in _chunks(document)]
    random.Random(SEED).shuffle(chunks)
    text = "\n\n".join(chunks) + "\n"
    size = len(text.encode())
    if size < MINIMUM_BYTES:
        raise RuntimeError(
            f"The packages hold {size:,} bytes of prose; expected at least {MINIMUM_BYTES:,}."
        )
    (folder / "english.txt").write_text(text, encoding="utf-8")
    made_from = {"packages": sorted(deb.name for deb in debs.values()), "seed": SEED}
    (folder / "packages.json").write_text(json.dumps(made_from, indent=2) + "\n", encoding="utf-8")


def _documents(debs: dict[str, Path], scratch: Path) -> Iterator[list[str]]:
    """The prose of one document after another, in a fixed order, no paragraph twice."""
    seen: set[str] = set()
    for paragraphs in _all_documents(debs, scratch):
        fresh = [p for p in dict.fromkeys(paragraphs) if p not in seen and _is_prose(p)]
        seen.update(fresh)
        yield fresh


def _all_documents(debs: dict[str, Path], scratch: Path) -> Iterator[list[str]]:
    def files(package: str, pattern: str) -> list[Path]:
        root = unpack(debs[package], scratch / package)
        return sorted(
            path for path in root.glob(pattern) if path.is_file() and not path.is_symlink()
        )

    yield from kjv.chapters(debs["bible-kjv"], debs["bible-kjv-text"], scratch)
    yield from map(html_paragraphs, files("debian-handbook", "**/html/en-US/*.html"))
    yield from map(html_paragraphs, files("debian-reference-en", "**/*.en.html"))
    yield from map(html_paragraphs, files("libreoffice-help-en-us", "**/en-US/text/**/*.html"))
    yield from (
        fortunes(path) for path in files("fortunes", "**/games/fortunes/*") if not path.suffix
    )
    yield from map(pod_paragraphs, files("perl-doc", "**/*.pod"))


def _is_prose(paragraph: str) -> bool:
    """Eight words or more, nine tenths of it letters and plain punctuation: no tables, no code, no other script."""
    plain = sum(c.isascii() and (c.isalpha() or c in " .,;:'\"()-?!") for c in paragraph)
    return paragraph.count(" ") + 1 >= MINIMUM_WORDS and plain >= 0.9 * len(paragraph)


def _chunks(paragraphs: list[str]) -> Iterator[str]:
    """Consecutive paragraphs joined until they make CHUNK_CHARACTERS."""
    chunk: list[str] = []
    size = 0
    for paragraph in paragraphs:
        chunk.append(paragraph)
        size += len(paragraph)
        if size >= CHUNK_CHARACTERS:
            yield "\n\n".join(chunk)
            chunk, size = [], 0
    if chunk:
        yield "\n\n".join(chunk)


def main() -> None:
    """Build the text and print its path."""
    typer.echo(english_text())


if __name__ == "__main__":
    typer.run(main)
