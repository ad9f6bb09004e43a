"""What all tests share."""

import pytest


@pytest.fixture
def one_thread():
    """For many small tensors, for which threads would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seeds():
    """Each test draws the same numbers in every run, whatever ran before it: what fails once fails again."""
    import random

    import numpy
    import torch

    for seed in (random.seed, numpy.random.seed, torch.manual_seed):
        seed(0)


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory):
    """Notes about runs are kept apart from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
