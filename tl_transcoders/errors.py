"""Errors that say where, what was got, what was expected, and what to do."""


class TLTranscodersError(Exception):
    """Base of every error this package raises on purpose.

    **Arguments:** `where` names the place; `got`, `expected` and `do` complete the sentence.
    """

    def __init__(self, where: str, *, got: str, expected: str, do: str) -> None:
        super().__init__(f"{where}: got {got}; expected {expected}. {do}")
        self.where, self.got, self.expected, self.do = where, got, expected, do

    def __str__(self) -> str:
        return Exception.__str__(self)

    def __reduce__(self) -> tuple[object, ...]:
        fields = {"got": self.got, "expected": self.expected, "do": self.do}
        return _rebuild, (type(self), self.where, fields), self.__dict__


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
