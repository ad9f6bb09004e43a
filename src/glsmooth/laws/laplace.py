"""The Laplace law."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glsmooth.laws.base import Law
from glsmooth.laws.moves import Move, slip_of

__all__ = ["Laplace"]


class Laplace(Law):
    """Laplace law about ``loc``: the density falls as e^(-|x - loc| / scale) on both sides, with a kink between.

    Its standard deviation is √2 ``scale``.
    """

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
    def in_own_units(self) -> tuple[Law, float, float]:
        return Laplace(0.0, 1.0), self.loc, self.scale

    @property
    def mean(self) -> Tensor:
        return torch.tensor(self.loc, dtype=torch.float64)

    @property
    def bend(self) -> float:
        return 2 / self.scale**2  # τ′ rises from 0 to its largest value, falls to the opposite one, and rises to 0

    @property
    def steepest(self) -> float:
        return 0.5 / self.scale**2

    @property
    def scale_speed(self) -> float:
        # Half the total variation of x τ(x). With m = |loc| / scale it falls to its least value at -1 (in units of the
        # scale, loc to the right), and rises to its largest: at m, where that lies beyond 1, else at 1.
        m = abs(self.loc) / self.scale
        return 0.5 * (math.exp(-1 - m) + (math.exp(m - 1) if m < 1 else m))

    @property
    def shifts(self) -> Move:
        return _Shifted(self.scale, slip=slip_of(self.bend))

    def slope(self, x: Tensor) -> Tensor:
        return -torch.sign(x - self.loc) / self.scale

    def score_turns(self, a: float, b: float) -> list[float] | None:
        # The slope jumps at loc; beside it a rescaling's score is linear, and turns there.
        return [math.nextafter(self.loc, -math.inf), math.nextafter(self.loc, math.inf)] if b else []

    def ratio_turns(self, shift: float, scale: float) -> list[float] | None:
        return [] if scale == 1 else [self.loc, shift + scale * self.loc]  # linear between the two kinks

    def _log_density(self, x: Tensor) -> Tensor:
        return -(x - self.loc).abs() / self.scale - math.log(2 * self.scale)

    def cdf(self, value: Tensor) -> Tensor:
        return _below((value - self.loc) / self.scale)

    def survival(self, value: Tensor) -> Tensor:
        return _below((self.loc - value) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        lower = value < 0.5
        tail = torch.log(2 * torch.where(lower, value, 1 - value))
        quantile: Tensor = self.loc + self.scale * torch.where(lower, tail, -tail)
        return quantile


def _below(z: Tensor) -> Tensor:
    tail = 0.5 * torch.exp(-z.abs())
    return torch.where(z < 0, tail, 1 - tail)


@dataclass(frozen=True)
class _Shifted(Move):
    """L is -d before 0, then rises at the rate 2 to d, where it stays (in units of the scale). Its own reverse."""

    scale: float

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        d = size / self.scale
        t, d = np.broadcast_arrays(t, d)
        under_0 = 1 - 0.5 * np.exp(-np.clip(t + d, 0.0, None) / 2)
        under_b = 0.5 * np.exp(np.clip(t - d, None, 0.0) / 2)
        reached, inside = t >= -d, t < d
        return np.where(inside, reached * under_0, 1.0), np.where(inside, reached * under_b, 1.0)

    def reversed(self) -> Move:
        return self
