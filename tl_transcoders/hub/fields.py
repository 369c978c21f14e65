"""Untrusted JSON objects, read key by key with the type that each value must have."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from reprlib import Repr
from types import NoneType
from typing import Self, TypeVar, final

from tl_transcoders.errors import TranscoderFormatError

T = TypeVar("T")

MAX_INTEGER = 2**53

_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 200, 200


@final
@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object found at `where`; every method raises TranscoderFormatError for a value of another type."""

    where: str
    data: Mapping[str, object]

    def integer(self, name: str) -> int:
        """An integer of a size that widths can have, which must be there."""
        value = self._typed(name, self.data.get(name), int)
        if abs(value) > MAX_INTEGER:
            raise self.wrong(name, expected="a smaller integer", do="Correct the config.")
        return value

    def text(self, name: str) -> str:
        """A string that must be there."""
        return self._typed(name, self.data.get(name), str)

    def text_or_none(self, name: str) -> str | None:
        """A string, or None where it is null or missing."""
        return self._typed(name, self.data.get(name), str, NoneType)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean, `default` where it is null or missing."""
        value = self._typed(name, self.data.get(name), bool, NoneType)
        return default if value is None else value

    def number(self, name: str) -> float:
        """A number that must be there."""
        value = self._typed(name, self.data.get(name), float, int)
        return value if isinstance(value, float) else float(self.integer(name))

    def nested(self, name: str) -> Self:
        """A nested object, empty where it is null or missing."""
        value = self._typed(name, self.data.get(name), dict, NoneType)
        return type(self)(f"{self.where}, {name}", {} if value is None else value)

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Raise TranscoderFormatError where there are other keys than `known`: they may change what is computed."""
        unknown = sorted(set(self.data).difference(known))
        if unknown:
            raise TranscoderFormatError(
                self.where,
                got=f"unknown keys {_SHORT.repr(unknown)}",
                expected=f"some of {sorted(known)}",
                do="It may need a newer tl-transcoders; if the keys change nothing, remove them.",
            )

    def wrong(self, name: str, *, expected: str, do: str) -> TranscoderFormatError:
        """The error that says what stands at `name`."""
        return TranscoderFormatError(
            f"{self.where}, {name}", got=_SHORT.repr(self.data.get(name)), expected=expected, do=do
        )

    def _typed(self, name: str, value: object, *kinds: type[T]) -> T:
        if type(value) not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise self.wrong(name, expected=expected, do="Download or save the set again.")
        return value  # pyright: ignore[reportReturnType]  # checked above
