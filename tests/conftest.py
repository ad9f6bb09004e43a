"""What all tests share."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory):
    """Notes about runs are kept apart from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
