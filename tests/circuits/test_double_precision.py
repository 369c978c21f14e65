"""Not every device has float64 (MPS has none): what becomes double leaves its device first."""

import re

import pytest

from tests.test_house import PACKAGE

ON_A_DEVICE = re.compile(r"(?<!\.cpu\(\))\.double\(\)|new_\w+\([^\n]*float64|\.to\([^\n]*float64")


@pytest.mark.parametrize("folder", ["attention", "weights"])
def test_only_tensors_on_the_cpu_become_double(folder: str) -> None:
    found = {
        path.name: ON_A_DEVICE.findall(path.read_text(encoding="utf-8"))
        for path in (PACKAGE / "circuits" / folder).glob("*.py")
    }
    assert {name: places for name, places in found.items() if places} == {}


def test_a_double_on_a_device_would_be_found() -> None:
    assert ON_A_DEVICE.search("x.abs().double()")
    assert ON_A_DEVICE.search("x.new_zeros(3, dtype=torch.float64)")
    assert not ON_A_DEVICE.search("x.abs().cpu().double()")
