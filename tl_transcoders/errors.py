"""Errors that say where, what was got, what was expected, and what to do."""

MAX_PART = 4_000
"""Characters of each part of a message: names in untrusted files may be long."""


class TLTranscodersError(Exception):
    """Base of every error this package raises on purpose.

    The message shows control characters as escapes, because a terminal would obey them.

    **Arguments:** `where` names the place; `got`, `expected` and `do` complete the sentence.
    """

    def __init__(self, where: str, *, got: str, expected: str, do: str) -> None:
        where_, got_, expected_, do_ = map(_shown, (where, got, expected, do))
        super().__init__(f"{where_}: got {got_}; expected {expected_}. {do_}")
        self.where, self.got, self.expected, self.do = where, got, expected, do

    def __str__(self) -> str:
        return Exception.__str__(self)

    def __reduce__(self) -> tuple[object, ...]:
        fields = {"got": self.got, "expected": self.expected, "do": self.do}
        return _rebuild, (type(self), self.where, fields), self.__dict__


def _shown(text: str) -> str:
    cut = text if len(text) <= MAX_PART else f"{text[:MAX_PART]}…"
    escaped = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in cut)
    return cut if cut.isprintable() else "".join(escaped)


def _rebuild(
    kind: type[TLTranscodersError], where: str, fields: dict[str, str]
) -> TLTranscodersError:
    return kind(where, **fields)


class ConfigError(TLTranscodersError, ValueError):
    """A value that no transcoder, splice or training run can have."""


class UnknownLayerError(ConfigError, KeyError):
    """A layer that a set of transcoders, a splice or a report does not hold."""


class ShapeError(TLTranscodersError, ValueError):
    """Tensors whose shapes do not fit each other or the model."""


class TranscoderFormatError(TLTranscodersError, ValueError):
    """A file that is not what its format says."""


class HubError(TLTranscodersError, OSError):
    """A folder or hub repository that cannot be read or written."""


class SpliceError(TLTranscodersError, RuntimeError):
    """A splice that cannot be installed, or that the model did not run."""


class HookNeverFiredError(SpliceError):
    """A hook the computation relies on was not reached in this forward pass."""
