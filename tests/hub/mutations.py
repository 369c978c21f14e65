"""Edits of a file: of its bytes, of a member of its archive, of its JSON or YAML, of its safetensors header."""

import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile, ZipFile

import yaml
from hypothesis import strategies as st

OPCODES = [
    bytes([code])
    for code in b"()]}.0123abdeghijlopqrstuABCEFGIJKLMNPQRSTUVX\x80\x81\x85\x86\x87\x88\x89\x8a\x8b"
]
PICKLES = (
    b"cos\nsystem\n(X\x02\x00\x00\x00idtR",
    b"cbuiltins\neval\n",
    b"}\x94",
    b"]h\x00a",
    b"ctorch\nDoubleStorage\n",
    b"ccollections\nOrderedDict\n)R",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"J\xff\xff\xff\xff",
)


@dataclass(frozen=True, slots=True)
class Edit:
    """What to do, and where: `file`, `place` and `other` are fractions of what there is."""

    kind: str
    file: float
    place: float
    other: float
    length: int
    data: bytes
    value: object


def edits() -> st.SearchStrategy[list[Edit]]:
    fraction = st.floats(0, 1, exclude_max=True)
    scalar = (
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats()
        | st.text(max_size=20)
        | st.sampled_from(
            ["../x", "/etc/passwd", "hf://a/b/c", "blocks.0.hook_mlp_out", "relu", "topk"]
        )
    )
    value = (
        scalar
        | st.lists(scalar, max_size=3)
        | st.dictionaries(st.text(max_size=5), scalar, max_size=3)
    )
    data = st.binary(max_size=12) | st.sampled_from(OPCODES) | st.sampled_from(PICKLES)
    edit = st.builds(
        Edit,
        kind=st.sampled_from(sorted(KINDS)),
        file=fraction,
        place=fraction,
        other=fraction,
        length=st.integers(0, 200),
        data=data,
        value=value,
    )
    return st.lists(edit, min_size=1, max_size=3)


def apply(edit: Edit, name: str, content: bytes) -> bytes:
    """The file after the edit: inside its archive, document or header where it has one."""
    if edit.kind == "value":
        return _edit_document(edit, name, content)
    if edit.kind.startswith("inner_"):
        return _edit_inside(edit, content)
    return KINDS[edit.kind](edit, content)


def _flip(edit: Edit, content: bytes) -> bytes:
    at = int(edit.place * len(content))
    return content[:at] + edit.data + content[at + len(edit.data) :]


def _truncate(edit: Edit, content: bytes) -> bytes:
    return content[: int(edit.place * len(content))]


def _insert(edit: Edit, content: bytes) -> bytes:
    at = int(edit.place * len(content))
    return content[:at] + edit.data + content[at:]


def _delete(edit: Edit, content: bytes) -> bytes:
    at = int(edit.place * len(content))
    return content[:at] + content[at + edit.length :]


def _splice(edit: Edit, content: bytes) -> bytes:
    at, source = int(edit.place * len(content)), int(edit.other * len(content))
    return content[:at] + content[source : source + edit.length] + content[at:]


def _edit_inside(edit: Edit, content: bytes) -> bytes:
    """The same edit of one member of a zip archive, or of a safetensors header, with sizes made right again."""
    change = KINDS[edit.kind]
    if content[:2] == b"PK":
        return _rezip(edit, content, change)
    header = content[8 : 8 + struct.unpack("<Q", content[:8].ljust(8, b"\0"))[0]]
    if header[:1] != b"{":
        return change(edit, content)
    changed = change(edit, header)
    return struct.pack("<Q", len(changed)) + changed + content[8 + len(header) :]


def _rezip(edit: Edit, content: bytes, change: Callable[[Edit, bytes], bytes]) -> bytes:
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except (
        BadZipFile,
        NotImplementedError,  # zipfile's own, for a compression it does not know
        ValueError,
        OSError,
        RuntimeError,
        EOFError,
        OverflowError,
    ):
        return change(edit, content)
    if not members:
        return change(edit, content)
    chosen = list(members)[int(edit.other * len(members))]
    members[chosen] = change(edit, members[chosen])
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _edit_document(edit: Edit, name: str, content: bytes) -> bytes:
    """A JSON, YAML or safetensors header with one value replaced, or one key taken away."""
    if name.endswith(".safetensors"):
        size = struct.unpack("<Q", content[:8].ljust(8, b"\0"))[0]
        header = _edit_document(edit, "header.json", content[8 : 8 + size])
        return struct.pack("<Q", len(header)) + header + content[8 + size :]
    load: Callable[[bytes], Any] = json.loads if name.endswith(".json") else yaml.safe_load
    if not name.endswith((".json", ".yaml", ".yml")):
        return _flip(edit, content)
    try:
        document = load(content)
    except (ValueError, RecursionError, yaml.YAMLError):
        return _flip(edit, content)
    places = list(_places(document))
    if not places:
        return _flip(edit, content)
    container, key = places[int(edit.place * len(places))]
    if edit.other < 0.2 and isinstance(container, dict):
        del container[key]
    else:
        container[key] = edit.value
    text = json.dumps(document) if load is json.loads else yaml.safe_dump(document)
    return text.encode()


def _places(document: object) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    todo = [document]
    while todo:
        container = todo.pop()
        if isinstance(container, dict | list):
            keys = list(container) if isinstance(container, dict) else range(len(container))
            found += [(container, key) for key in keys]
            todo += [container[key] for key in keys]
    return found


_CHANGES = {
    "flip": _flip,
    "truncate": _truncate,
    "insert": _insert,
    "delete": _delete,
    "splice": _splice,
}
KINDS: dict[str, Callable[[Edit, bytes], bytes]] = {
    **_CHANGES,
    **{f"inner_{name}": change for name, change in _CHANGES.items()},
    "value": _flip,
}
