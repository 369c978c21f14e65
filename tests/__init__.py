"""The tests, and the run-time type checker they run under: beartype, told that `Self` may be anything.

jaxtyping decorates one method at a time, where beartype cannot know which class `Self` stands for.
"""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any})))
