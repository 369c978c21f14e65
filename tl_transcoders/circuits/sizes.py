"""Sizes that a caller gives."""

from tl_transcoders.errors import ConfigError


def check_sizes(where: str, **given: int | None) -> None:
    """Raises ConfigError for a size below 1."""
    for name, size in given.items():
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigError(
                f"{where}, {name}",
                got=repr(size),
                expected="a whole number, 1 or more",
                do="Leave it out, or give it a size.",
            )
