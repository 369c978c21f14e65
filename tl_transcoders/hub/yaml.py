"""Untrusted YAML: small, shallow, plain data."""

from pathlib import Path

import yaml

from tl_transcoders.errors import TranscoderFormatError

MAX_YAML_BYTES = 50_000
MAX_DEPTH = 20
MAX_PLAIN = 2_000
"""Characters without quotes: of a hexadecimal number more than 4300 decimal digits, which Python does not print."""


def read_yaml(path: Path) -> dict[str, object]:
    """The YAML mapping in a file of at most 50 kB.

    Tags (`!!python/object`) and aliases (`*name`, with which ten lines become a billion) are refused
    before anything is built.

    **Raises:** TranscoderFormatError where the file is anything else.
    """
    where = path.name
    size = path.stat().st_size
    if size > MAX_YAML_BYTES:
        raise TranscoderFormatError(
            where,
            got=f"{size:,} bytes",
            expected=f"at most {MAX_YAML_BYTES:,}",
            do="This is not the config of a set of transcoders: check where it comes from.",
        )
    try:
        text = path.read_bytes().decode()
        _check_plain(where, text)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, TranscoderFormatError):
            raise
        raise TranscoderFormatError(
            where,
            got=f"no valid YAML ({' '.join(str(error).split())[:200]})",
            expected="a mapping of plain values",
            do="The file is truncated or was edited: download the set again.",
        ) from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise TranscoderFormatError(
            where,
            got=f"a YAML {type(data).__name__}",
            expected="a mapping with names as keys",
            do="Download the set again.",
        )
    return data


def _check_plain(where: str, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        tag = getattr(event, "tag", None)
        if isinstance(event, yaml.AliasEvent):
            _refuse(where, f"an alias, *{event.anchor}")
        if (
            isinstance(event, yaml.ScalarEvent)
            and event.implicit[0]
            and len(event.value) > MAX_PLAIN
        ):
            _refuse(where, f"a value of {len(event.value):,} characters without quotes")
        if tag is not None:
            _refuse(where, f"a tag, {tag[:100]}")
        if depth > MAX_DEPTH:
            _refuse(where, f"more than {MAX_DEPTH} levels")


def _refuse(where: str, got: str) -> None:
    raise TranscoderFormatError(
        where,
        got=got,
        expected="plain values: names, numbers, lists and mappings",
        do="Load nothing from this place unless you know who wrote it.",
    )
