"""The uniform law on a cycle."""

from __future__ import annotations

import math

from torch import Tensor

from glsmooth.laws.base import Law

__all__ = ["UniformCyclic"]


class UniformCyclic(Law):
    """Uniform law on the cycle Z_W (for ``tx``) or Z_H (for ``ty``); it needs a family with an image size.

    Every cyclic shift leaves it as it is, so every shift is certified at 1/2.
    """

    cyclic = True

    @property
    def interval(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def _no_size(self) -> ValueError:
        return ValueError("UniformCyclic lives on a cycle whose length is the image's; give image_size=(H, W)")

    def log_prob(self, value: Tensor) -> Tensor:
        raise self._no_size()

    def cdf(self, value: Tensor) -> Tensor:
        raise self._no_size()

    survival = icdf = cdf
