"""The uniform law on an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.laws.base import Law
from glsmooth.laws.moves import Flat, Move

__all__ = ["Uniform"]


class Uniform(Law):
    """Uniform law on the interval from ``low`` to ``high``."""

    fields = ("low", "high")
    log_concave = True

    def __init__(self, low: float, high: float) -> None:
        super().__init__(low=low, high=high)
        if not self.low < self.high:
            raise UserError(f"low={low:g} must be below high={high:g}; exchange them or widen the interval")
        if self.high - self.low < 1e-12:
            raise UserError(f"high={high:g} is too close to low={low:g} to compute with; widen the interval to 1e-12")

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def log_concave_in_log(self) -> bool:  # type: ignore[override]
        return self.low >= 0  # the density of log X is e^u on an interval

    @property
    def peak_of_log(self) -> float:
        return self.high / (self.high - self.low)

    @property
    def mode_point(self) -> float:
        return (self.low + self.high) / 2

    @property
    def symmetric_about(self) -> float | None:
        return (self.low + self.high) / 2

    @property
    def in_own_units(self) -> tuple[Law, float, float]:
        return Uniform(0.0, 1.0), self.low, self.high - self.low

    @property
    def mean(self) -> Tensor:
        return torch.tensor((self.low + self.high) / 2, dtype=torch.float64)

    @property
    def bend(self) -> float:
        return 0.0

    @property
    def steepest(self) -> float:
        return 0.0

    @property
    def scale_speed(self) -> float:
        return 0.5 + (abs(self.low) + abs(self.high)) / (2 * (self.high - self.low))

    @property
    def shifts(self) -> Move:
        width = self.high - self.low
        return _Shifted(width, slip=(0.0, 0.0), limit=width)

    @property
    def rescalings(self) -> Move | None:
        if self.low < 0:
            return None
        # The shares that leave are low (e^d - 1) and high (1 - e^-d), over the width; neither bends by more than high.
        bend = self.high / (8 * (self.high - self.low))
        limit = math.log(self.high / self.low) if self.low > 0 else math.inf
        return _Rescaled(self.low, self.high, slip=(bend if self.low > 0 else 0.0, bend), limit=limit)

    @property
    def second_moment(self) -> float:
        return (self.low**2 + self.low * self.high + self.high**2) / 3

    def lower_mean(self, value: Tensor) -> Tensor:
        x = value.clamp(self.low, self.high)
        return (x - self.low) * (x + self.low) / (2 * (self.high - self.low))

    def upper_mean(self, value: Tensor) -> Tensor:
        x = value.clamp(self.low, self.high)
        return (self.high - x) * (self.high + x) / (2 * (self.high - self.low))

    def ratio_turns(self, shift: float, scale: float) -> list[float] | None:
        return []  # constant

    def _log_density(self, x: Tensor) -> Tensor:
        return torch.full_like(x, -math.log(self.high - self.low))

    def cdf(self, value: Tensor) -> Tensor:
        return ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)

    def survival(self, value: Tensor) -> Tensor:
        return ((self.high - value) / (self.high - self.low)).clamp(0.0, 1.0)

    def icdf(self, value: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * value


@dataclass(frozen=True)
class _Shifted(Flat):
    """The shares that leave are linear in d: the chord rule is exact up to the width of the law."""

    width: float

    def overlap(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        common = np.clip(1 - size / self.width, 0.0, 1.0)
        return common, common


@dataclass(frozen=True)
class _Rescaled(Flat):
    """Uniform on [low, high], 0 <= low, against e^d times it."""

    low: float
    high: float

    def overlap(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        width = self.high - self.low
        moved = np.minimum(self.low * np.exp(np.minimum(size, 700.0)), self.high)
        back = np.maximum(self.high * np.exp(-size), self.low)
        return (self.high - moved) / width, (back - self.low) / width
