"""The normal law, and what others take from it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from glsmooth.laws.arrays import normal_cdf
from glsmooth.laws.base import Law
from glsmooth.laws.moves import Move, slip_of

__all__ = ["HALF_LOG_2PI", "PHI_1", "STANDARD", "Normal", "Standard", "ndtr"]

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
PHI_1 = math.exp(-0.5 - HALF_LOG_2PI)  # the standard normal density at 1


def ndtr(z: Tensor) -> Tensor:
    """Φ(z), precise relative to itself for z < 0; one kernel, where torch.special.ndtr takes several."""
    return 0.5 * torch.erfc(z * -math.sqrt(0.5))


class Standard(Move):
    """Shifts of the standard normal law. Its own reverse.

    Any normal law's shifts are these in standard deviations, any log-normal law's rescalings in those of the logarithm.
    """

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z, half = t / size, size / 2
        return normal_cdf(z + half), normal_cdf(z - half)

    def reversed(self) -> Move:
        return self


STANDARD = Standard(slip=slip_of(4 * PHI_1))


class Normal(Law):
    """Normal law with mean ``loc`` and standard deviation ``scale``."""

    fields = ("loc", "scale")
    log_concave = True
    shifts_smoothly = True
    rescales_smoothly = True

    def __init__(self, loc: float, scale: float) -> None:
        super().__init__(loc=loc, scale=scale)

    @property
    def interval(self) -> tuple[float, float]:
        return -math.inf, math.inf

    @property
    def mode_point(self) -> float:
        return self.loc

    @property
    def symmetric_about(self) -> float | None:
        return self.loc

    @property
    def gaussian_scale(self) -> float | None:
        return self.scale

    @property
    def in_own_units(self) -> tuple[Law, float, float]:
        return Normal(0.0, 1.0), self.loc, self.scale

    @property
    def mean(self) -> Tensor:
        return torch.tensor(self.loc, dtype=torch.float64)

    @property
    def bend(self) -> float:
        return 4 * PHI_1 / self.scale**2  # τ″ changes its sign at ±1 deviation

    @property
    def scale_speed(self) -> float:
        # Half the total variation of x τ(x), whose critical points are at 1 = z (z + loc / scale).
        offset = self.loc / self.scale
        roots = ((-offset + sign * math.sqrt(offset**2 + 4)) / 2 for sign in (1, -1))
        return sum(abs(z + offset) * math.exp(-0.5 * z * z - HALF_LOG_2PI) for z in roots)

    def slope(self, x: Tensor) -> Tensor:
        return -(x - self.loc) / self.scale**2

    def score_turns(self, a: float, b: float) -> list[float] | None:
        # The score is a z/σ + b (z² + loc z/σ - 1) with z = (x - loc)/σ.
        return [self.loc - (a + b * self.loc) / (2 * b)] if b else []

    def ratio_turns(self, shift: float, scale: float) -> list[float] | None:
        if scale == 1:
            return []
        return [(shift + scale * self.loc - scale**2 * self.loc) / (1 - scale**2)]  # of a parabola

    def _log_density(self, x: Tensor) -> Tensor:
        z = (x - self.loc) / self.scale
        return -0.5 * z * z - HALF_LOG_2PI - math.log(self.scale)

    def cdf(self, value: Tensor) -> Tensor:
        return ndtr((value - self.loc) / self.scale)

    def survival(self, value: Tensor) -> Tensor:
        return ndtr((self.loc - value) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        quantile: Tensor = self.loc + self.scale * torch.special.ndtri(value)
        return quantile
