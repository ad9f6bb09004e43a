"""Functions of torch on numpy arrays."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from glsmooth.laws.arrays import normal_cdf, on_array, on_number


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("call", [lambda f: on_array(f, np.ones(3)), lambda f: on_number(f, 1.0)])
def test_torch_works_on_one_thread_and_gets_its_own_back(call):
    seen = []

    def double(x):
        seen.append(torch.get_num_threads())
        return 2 * x

    def fail(x):
        raise RuntimeError

    assert np.all(call(double) == 2.0)
    with pytest.raises(RuntimeError):
        call(fail)
    assert seen == [1]
    assert torch.get_num_threads() == 2


def test_normal_cdf_of_any_shape():
    z = np.concatenate((np.linspace(-40, 40, 2001), [-np.inf, np.inf])).reshape(-1, 1)
    assert normal_cdf(z) == pytest.approx(ndtr(z), abs=3e-16)
