"""Untrusted JSON objects, read key by key with the type that each value must have."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Self, TypeVar, final

from tl_transcoders.errors import TranscoderFormatError

T = TypeVar("T")

_SHOWN = (str, int, float, NoneType)
"""Values whose text can always be made; others may be nested without end."""


@final
@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object found at `where`; every method raises TranscoderFormatError for a value of another type."""

    where: str
    data: Mapping[str, object]

    def integer(self, name: str) -> int:
        """An integer that must be there."""
        return self._typed(name, self.data.get(name), int)

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
        try:
            return float(value)
        except OverflowError as error:
            raise self.wrong(name, expected="a number", do="Correct the file.") from error

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
                got=f"unknown keys {unknown}",
                expected=f"some of {sorted(known)}",
                do="It may need a newer tl-transcoders; if the keys change nothing, remove them.",
            )

    def wrong(self, name: str, *, expected: str, do: str) -> TranscoderFormatError:
        """The error that says what stands at `name`."""
        value = self.data.get(name)
        got = repr(value)[:100] if isinstance(value, _SHOWN) else f"a {type(value).__name__}"
        return TranscoderFormatError(f"{self.where}, {name}", got=got, expected=expected, do=do)

    def _typed(self, name: str, value: object, *kinds: type[T]) -> T:
        if type(value) not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise self.wrong(name, expected=expected, do="Download or save the set again.")
        return value  # pyright: ignore[reportReturnType]  # checked above
