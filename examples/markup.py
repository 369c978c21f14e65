"""Paragraphs of plain text out of HTML, Perl's POD and fortune files."""

import re
from html.parser import HTMLParser
from pathlib import Path

_BLOCKS = frozenset(
    "address article aside blockquote body br caption center dd div dl dt figure footer form h1 h2 h3 h4 h5 h6 header"
    " hr li main nav ol p pre section table tbody td tfoot th thead title tr ul".split()
)
_SKIPPED = frozenset("footer head nav pre script style".split())

_POD_CODE = re.compile(
    r"[A-Z](?:<<+\s+(?P<wide>(?:(?!\s>>).)*?)\s+>>+|<(?P<narrow>[^<>]*)>)", re.DOTALL
)
_POD_ENTITIES = {"lt": "<", "gt": ">", "verbar": "|", "sol": "/"}
_OTHER_SCRIPTS = re.compile(r"perl(cn|jp|ko|tw)\.pod")
_OVERSTRIKE = re.compile(r".\x08")


def html_paragraphs(path: Path) -> list[str]:
    """The text of every block element but navigation, code and page furniture."""
    reader = _BlockReader()
    reader.feed(path.read_text(encoding="utf-8", errors="replace"))
    reader.close()
    return reader.paragraphs()


def pod_paragraphs(path: Path) -> list[str]:
    """Ordinary paragraphs without their formatting codes: no commands, no verbatim blocks."""
    if _OTHER_SCRIPTS.fullmatch(path.name):
        return []
    pod = path.read_text(encoding="utf-8", errors="replace")
    pod = re.sub(r"^=(begin|for)\b.*?^=(end|cut)\b.*?$", "", pod, flags=re.DOTALL | re.MULTILINE)
    blocks = re.split(r"\n\s*\n", pod)
    return [
        _joined(_without_pod_codes(block))
        for block in blocks
        if block.strip() and block[0] not in "= \t\n"
    ]


def fortunes(path: Path) -> list[str]:
    """The entries of a fortune file, each one paragraph."""
    text = _OVERSTRIKE.sub("", path.read_text(encoding="utf-8", errors="replace"))
    return [_joined(entry) for entry in re.split(r"^%.*$", text, flags=re.MULTILINE)]


def _without_pod_codes(text: str) -> str:
    previous = None
    while previous != text:
        previous, text = text, _POD_CODE.sub(_plain_pod_code, text)
    return text


def _plain_pod_code(code: re.Match[str]) -> str:
    inner = code["wide"] if code["wide"] is not None else code["narrow"]
    match code[0][0]:
        case "E":
            return _POD_ENTITIES.get(inner, "")
        case "X" | "Z":
            return ""
        case "L":
            return inner.partition("|")[0]
        case _:
            return inner


def _joined(text: str) -> str:
    return " ".join(text.split())


class _BlockReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks: list[list[str]] = [[]]
        self._skipping: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipping.append(tag)
        if tag in _BLOCKS:
            self._blocks.append([])

    def handle_endtag(self, tag: str) -> None:
        if tag in self._skipping:
            del self._skipping[self._skipping.index(tag) :]
        if tag in _BLOCKS:
            self._blocks.append([])

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self._blocks[-1].append(data)

    def paragraphs(self) -> list[str]:
        """Every block that holds text, its white space collapsed."""
        joined = (_joined("".join(block)) for block in self._blocks)
        return [text for text in joined if text]
