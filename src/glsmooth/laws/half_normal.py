"""The half-normal law."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import erf
from torch import Tensor

from glsmooth.laws.base import Law
from glsmooth.laws.moves import Move, slip_of
from glsmooth.laws.normal import HALF_LOG_2PI

__all__ = ["HalfNormal"]


class HalfNormal(Law):
    """Law of |N| with N normal of mean 0 and standard deviation ``scale``."""

    fields = ("scale",)
    log_concave = True
    log_concave_in_log = True
    rescales_smoothly = True

    def __init__(self, scale: float) -> None:
        super().__init__(scale=scale)

    @property
    def interval(self) -> tuple[float, float]:
        return 0.0, math.inf

    @property
    def mode_of_log(self) -> float:
        return self.scale

    @property
    def peak_of_log(self) -> float:
        return math.sqrt(2 / (math.pi * math.e))  # at x = scale

    @property
    def mode_point(self) -> float:
        return 0.0

    @property
    def mean(self) -> Tensor:
        return torch.tensor(self.scale * math.sqrt(2 / math.pi), dtype=torch.float64)

    @property
    def bend(self) -> float:
        return 2 * self.steepest  # τ′ falls from 0 to its least value and rises to 0

    @property
    def steepest(self) -> float:
        return math.sqrt(2 / (math.pi * math.e)) / self.scale**2  # at x = scale

    @property
    def bend_of_log(self) -> float:
        # The slope of the density of log X is √(2/π) x e^(-x²/2) (1 - x²), extreme at x² = 2 ± √3.
        extremes = (2 + math.sqrt(3), 2 - math.sqrt(3))
        return 2 * sum(math.sqrt(2 * y / math.pi) * math.exp(-y / 2) * abs(1 - y) for y in extremes)

    @property
    def shifts(self) -> Move:
        # With y - d as the coordinate the moved law stands still, and τ(y + d) bends inside the support only; the mass
        # below 0 is one more outcome, whose share F(d) bends by |τ′|.
        return _Shifted(self.scale, slip=((self.bend + self.steepest) / 16, 0.0))

    @property
    def rescalings(self) -> Move:
        return _Rescaled(slip=slip_of(self.bend_of_log))

    @property
    def second_moment(self) -> float:
        return self.scale**2

    def lower_mean(self, value: Tensor) -> Tensor:
        return self.mean * -torch.expm1(-0.5 * (value.clamp(min=0.0) / self.scale) ** 2)

    def upper_mean(self, value: Tensor) -> Tensor:
        return self.mean * torch.exp(-0.5 * (value.clamp(min=0.0) / self.scale) ** 2)

    def slope(self, x: Tensor) -> Tensor:
        return -x / self.scale**2

    def score_turns(self, a: float, b: float) -> list[float] | None:
        return None if a and b else []

    def ratio_turns(self, shift: float, scale: float) -> list[float] | None:
        if scale == 1 or shift == 0:
            return []
        return [shift / (1 - scale**2)]  # of a parabola

    def _log_density(self, x: Tensor) -> Tensor:
        return math.log(2) - HALF_LOG_2PI - math.log(self.scale) - 0.5 * (x / self.scale) ** 2

    def cdf(self, value: Tensor) -> Tensor:
        return torch.erf(value.clamp(min=0.0) / (self.scale * math.sqrt(2)))

    def survival(self, value: Tensor) -> Tensor:
        return torch.erfc(value.clamp(min=0.0) / (self.scale * math.sqrt(2)))

    def icdf(self, value: Tensor) -> Tensor:
        # Through the survival probability near 1, where 1 + value would lose it.
        quantile: Tensor = -self.scale * torch.special.ndtri((1 - value) / 2)
        return quantile


@dataclass(frozen=True)
class _Shifted(Move):
    scale: float

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = np.maximum(self.scale**2 * t / size + size / 2, size)  # L = (2 y d - d²) / (2 scale²) for y > d
        unit = self.scale * math.sqrt(2)
        return erf(y / unit), erf((y - size) / unit)


@dataclass(frozen=True)
class _Rescaled(Move):
    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = np.sqrt(np.clip((t + size) / -np.expm1(-2 * size), 0.0, 1e300))  # L = x² (1 - e^-2d) - d, x = y / √2 scale
        return erf(x), erf(x * np.exp(-size))
