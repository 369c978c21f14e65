"""The record of where weights came from."""

from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where weights came from: the model they were trained on, and the folder or hub repository and revision read.

    `others` are the further repositories, as `org/repo@revision`, that files were taken from.
    """

    model_name: str | None = None
    source: str | None = None
    revision: str | None = None
    others: tuple[str, ...] = field(default=(), repr=False)
