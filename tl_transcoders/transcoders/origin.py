"""The record of where weights came from."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where weights came from: the model they were trained on, and the folder or hub repository and revision read."""

    model_name: str | None = None
    source: str | None = None
    revision: str | None = None
