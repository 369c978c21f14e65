"""A short run of the fuzzer over every layout; `python -m tests.hub.fuzz` is the long one."""

import pytest

from tests.hub.fuzz import Case, cases, fuzz


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_only_our_errors_leave_load(case: Case) -> None:
    outcomes = fuzz(case, first_seed=0, examples=15)
    assert outcomes.total() >= 10
    assert outcomes["TranscoderFormatError"] > 0
