"""Bounds work on many small matrices, where threads cost more than they bring."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass
