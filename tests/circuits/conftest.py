from collections.abc import Iterator

import jaxtyping
import pytest
from hypothesis import settings

# A shared machine is sometimes slow.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the run-time type checker, as users run it: the package's own errors speak."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
