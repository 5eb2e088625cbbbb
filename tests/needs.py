"""What some tests need of the machine: without it they are skipped, or fail where it must be there."""

import os

import pytest

NEED_VARIABLE = "PREF_DIST_TESTS_NEED"  # names of what must be here; .ci/run sets it


def check_need(name: str, reason: str) -> None:
    """Skip the test for this reason, or fail where `name` must be here; go on where there is no reason."""
    if reason and name in os.environ.get(NEED_VARIABLE, "").split():
        pytest.fail(f"{NEED_VARIABLE} asks for {name}, but {reason}")
    if reason:
        pytest.skip(reason)
