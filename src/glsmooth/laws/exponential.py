"""The exponential law."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glsmooth.laws.base import Law
from glsmooth.laws.moves import Flat, Move, slip_of

__all__ = ["GUMBEL_BEND", "Exponential", "ExponentialRescaled"]

#: ∫ |g″| of the density g(u) = exp(u - e^u) of the logarithm of an exponential variable: its slope x e^-x (1 - x),
#: x = e^u, is extreme at x = (3 ± √5) / 2.
GUMBEL_BEND = 2 * sum(x * math.exp(-x) * abs(1 - x) for x in ((3 + math.sqrt(5)) / 2, (3 - math.sqrt(5)) / 2))


class Exponential(Law):
    """Exponential law of the given ``rate`` (mean 1 / rate)."""

    fields = ("rate",)
    log_concave = True
    log_concave_in_log = True
    rescales_smoothly = True

    def __init__(self, rate: float) -> None:
        super().__init__(rate=rate)

    @property
    def interval(self) -> tuple[float, float]:
        return 0.0, math.inf

    @property
    def mode_of_log(self) -> float:
        return 1 / self.rate

    @property
    def peak_of_log(self) -> float:
        return 1 / math.e  # at the mean

    @property
    def mode_point(self) -> float:
        return 0.0

    @property
    def mean(self) -> Tensor:
        return torch.tensor(1 / self.rate, dtype=torch.float64)

    @property
    def bend(self) -> float:
        return self.rate**2

    @property
    def steepest(self) -> float:
        return self.rate**2

    @property
    def bend_of_log(self) -> float:
        return GUMBEL_BEND

    @property
    def shifts(self) -> Move:
        # The chord of the share 1 - e^(-rate d) that lies below the moved end.
        return _Shifted(self.rate, slip=(self.rate**2 / 8, 0.0))

    @property
    def rescalings(self) -> Move:
        return ExponentialRescaled(1.0, slip=slip_of(self.bend_of_log))

    @property
    def second_moment(self) -> float:
        return 2 / self.rate**2

    def lower_mean(self, value: Tensor) -> Tensor:
        u = self.rate * value.clamp(min=0.0)
        mean: Tensor = self.mean * torch.special.gammainc(torch.full_like(u, 2.0), u)
        return mean

    def upper_mean(self, value: Tensor) -> Tensor:
        u = self.rate * value.clamp(min=0.0)
        mean: Tensor = self.mean * torch.special.gammaincc(torch.full_like(u, 2.0), u)
        return mean

    def slope(self, x: Tensor) -> Tensor:
        return torch.full_like(x, -self.rate)

    def score_turns(self, a: float, b: float) -> list[float] | None:
        return None if a and b else []

    def ratio_turns(self, shift: float, scale: float) -> list[float] | None:
        return []  # linear

    def _log_density(self, x: Tensor) -> Tensor:
        return math.log(self.rate) - self.rate * x

    def cdf(self, value: Tensor) -> Tensor:
        return -torch.expm1(-self.rate * value.clamp(min=0.0))

    def survival(self, value: Tensor) -> Tensor:
        return torch.exp(-self.rate * value.clamp(min=0.0))

    def icdf(self, value: Tensor) -> Tensor:
        return -torch.log1p(-value) / self.rate


@dataclass(frozen=True)
class _Shifted(Flat):
    rate: float

    def overlap(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.exp(-self.rate * size), np.ones_like(size)


@dataclass(frozen=True)
class ExponentialRescaled(Move):
    """y ~ Exp(1) against e^(power d) y: exponential laws (power 1) and, y being x²/2 scale², Rayleigh's (power 2)."""

    power: float

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log = self.power * size
        y = np.clip((t + log) / -np.expm1(-log), 0.0, 1e300)  # L = y (1 - e^-log) - log
        return -np.expm1(-y), -np.expm1(-y * np.exp(-log))
