"""Functions of torch, a law's for the most part, on numpy arrays and on numbers.

Bounds work on small arrays, where a second thread costs far more than it brings, so torch has one while it works here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

__all__ = ["normal_cdf", "on_array", "on_number", "one_thread"]

_ROOT_HALF = math.sqrt(0.5)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch with one thread, while it works here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def on_array(function: Callable[[Tensor], Tensor], x: np.ndarray) -> np.ndarray:
    """``function`` of float64 numbers of any shape."""
    with one_thread():
        return function(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))).numpy()


def on_number(function: Callable[[Tensor], Tensor], x: float) -> float:
    """``function`` of one number."""
    with one_thread():
        return float(function(torch.tensor(x, dtype=torch.float64)))


def normal_cdf(z: np.ndarray) -> np.ndarray:
    """Φ(z) with an absolute error of a few machine epsilons, several times faster than scipy's."""
    return 0.5 + 0.5 * on_array(torch.erf, z * _ROOT_HALF)
