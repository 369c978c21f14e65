"""Options that several of these questions take."""

from typing import Final, Literal

from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.circuits.weights.best import SIGNS, Sign
from tl_transcoders.errors import ConfigError

Per = Literal["all", "source", "target"]
PER: Final = ("all", "source", "target")


def check_options(
    where: str, *, k: int, memory: int, sign: Sign = "both", per: Per = "all"
) -> None:
    """Raise ConfigError for a size below 1 or a word that is none of those there are."""
    check_sizes(where, k=k, memory=memory)
    for name, word, known in (("sign", sign, SIGNS), ("per", per, PER)):
        check_word(where, name, word, known)


def check_word(where: str, name: str, word: object, known: tuple[str | None, ...]) -> None:
    """Raise ConfigError for a word that is none of those known."""
    if word not in known:
        raise ConfigError(
            f"{where}, {name}",
            got=repr(word),
            expected=f"one of {', '.join(map(repr, known))}",
            do="Correct it.",
        )
