from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models are faster on one thread, and leave the other core to whoever shares the machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test begins at the same seed and leaves gradients and the default dtype as it found them."""
    torch.manual_seed(0)
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    yield
    assert torch.is_grad_enabled() is grad
    assert torch.get_default_dtype() is dtype


@pytest.fixture(autouse=True)
def shared_models_stay() -> Iterator[None]:
    """A test that changes weights builds a model of its own, `Host.fresh()`."""
    yield
    from tests.cases import SHARED

    for host, weights in SHARED.items():
        assert all(weight._version == version for weight, version in weights), f"{host} was changed"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers must collect the same names, so no name may hold an address in memory."""
    if moving := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"test names that change from run to run, give ids=: {moving}")
