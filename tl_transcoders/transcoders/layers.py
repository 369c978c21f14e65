"""Layer numbers, as a caller names them."""

from collections.abc import Iterable
from operator import index

from tl_transcoders.errors import ConfigError


def layer_numbers(layers: object) -> tuple[int, ...]:
    """The integers of a list, range or other iterable, in their order; raises ConfigError for anything else."""
    if isinstance(layers, Iterable) and not isinstance(layers, str):
        given = list(layers)
        if not any(isinstance(layer, bool) for layer in given):
            try:
                return tuple(index(layer) for layer in given)
            except TypeError:
                pass
    raise ConfigError(
        "layers",
        got=repr(layers),
        expected="layer numbers, such as [2] or range(4)",
        do="Give a list of integers.",
    )
