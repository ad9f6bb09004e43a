"""The log-normal law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.laws.arrays import normal_cdf
from glsmooth.laws.base import Law
from glsmooth.laws.moves import Move, increasing_root, slip_of
from glsmooth.laws.normal import HALF_LOG_2PI, PHI_1, ndtr

__all__ = ["LogNormal"]


class LogNormal(Law):
    """Law of exp(N) with N normal of mean ``loc`` and standard deviation ``scale``."""

    fields = ("loc", "scale")
    log_concave_in_log = True
    symmetric_in_log = True
    shifts_smoothly = True
    rescales_smoothly = True

    def __init__(self, loc: float, scale: float) -> None:
        super().__init__(loc=loc, scale=scale)
        if self.scale > 10 or abs(self.loc) > 100:
            raise UserError(
                f"loc={self.loc:g}, scale={self.scale:g} is too wide to compute with; give a scale of at "
                "most 10 and a loc between -100 and 100 (they belong to the logarithm)"
            )
        narrowest = 1e-6 * (1 + abs(self.loc))
        if self.scale < narrowest:  # the rounding of log x - loc would be magnified to what bounds do not allow for
            raise UserError(
                f"scale={self.scale:g} is too narrow to compute with at loc={self.loc:g}; give a scale of "
                f"at least {narrowest:g}"
            )

    @property
    def interval(self) -> tuple[float, float]:
        return 0.0, math.inf

    @property
    def mode_of_log(self) -> float:
        return math.exp(self.loc)

    @property
    def peak_of_log(self) -> float:
        return 1 / (self.scale * math.sqrt(2 * math.pi))

    @property
    def mode_point(self) -> float:
        return math.exp(self.loc - self.scale**2)

    @property
    def gaussian_scale_of_log(self) -> float | None:
        return self.scale

    @property
    def mean(self) -> Tensor:
        return torch.tensor(math.exp(self.loc + self.scale**2 / 2), dtype=torch.float64)

    @property
    def bend(self) -> float:
        # τ′(y) = -φ(z) (z + s) / (s y)², y = exp(m + s z), is extreme at z = (-3 s ± √(s² + 4)) / 2.
        s, total = self.scale, 0.0
        for sign in (1, -1):
            z = (-3 * s + sign * math.sqrt(s * s + 4)) / 2
            log = -0.5 * z * z - HALF_LOG_2PI - 2 * (math.log(s) + self.loc + s * z)
            total += 2 * abs(z + s) * math.exp(min(log, 700.0))
        return total

    @property
    def bend_of_log(self) -> float:
        return 4 * PHI_1 / self.scale**2

    @property
    def cdf_error(self) -> float:
        # It is log(x) - loc that is rounded, before the scale magnifies it.
        return 2.0**-50 * (1 + (abs(self.loc) + 20) / self.scale)

    @property
    def shifts(self) -> Move:
        return _Shifted(self, slip=slip_of(self.bend), ordered=False, slow=True)

    @property
    def second_moment(self) -> float:
        return math.exp(2 * self.loc + 2 * self.scale**2)

    def lower_mean(self, value: Tensor) -> Tensor:
        return self.mean * ndtr(self._z(value) - self.scale)

    def upper_mean(self, value: Tensor) -> Tensor:
        return self.mean * ndtr(self.scale - self._z(value))

    def _z(self, x: Tensor) -> Tensor:
        return (torch.log(x.clamp(min=0.0)) - self.loc) / self.scale

    @property
    def _flex(self) -> float:
        """Where (log τ)′, which falls up to here, rises."""
        return math.exp(self.loc + 1 - self.scale**2)

    def slope(self, x: Tensor) -> Tensor:
        return -(1 + (torch.log(x) - self.loc) / self.scale**2) / x

    def score_turns(self, a: float, b: float) -> list[float] | None:
        if a and b:
            return None
        return [self._flex] if a else []  # a rescaling's score is monotone

    def slope_range(self, edges: Tensor) -> Tensor:
        at, turn = self.slope(edges), self._flex
        least, most = torch.minimum(at[:-1], at[1:]), torch.maximum(at[:-1], at[1:])
        inside = (edges[:-1] < turn) & (turn < edges[1:])
        return torch.stack((torch.where(inside, -1 / (self.scale * self.scale * turn), least), most))

    def _log_density(self, x: Tensor) -> Tensor:
        positive = torch.where(x > 0, x, torch.ones_like(x))
        log = torch.log(positive)
        z = (log - self.loc) / self.scale
        value = -0.5 * z * z - HALF_LOG_2PI - math.log(self.scale) - log
        return torch.where(x > 0, value, torch.full_like(x, -math.inf))

    def cdf(self, value: Tensor) -> Tensor:
        return ndtr(self._z(value))

    def survival(self, value: Tensor) -> Tensor:
        return ndtr(-self._z(value))

    def icdf(self, value: Tensor) -> Tensor:
        return torch.exp(self.loc + self.scale * torch.special.ndtri(value))


@dataclass(frozen=True)
class _Shifted(Move):
    """L rises from -inf at the moved end of the support to a largest value and falls back to 0.

    Its derivative is A(y) - A(y - d) with A = -(log τ)′, which rises and then falls: it has one zero.
    """

    law: LogNormal

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        m, s = self.law.loc, self.law.scale
        shape = np.broadcast_shapes(np.shape(t), np.shape(size))
        t, tops = np.broadcast_to(t, shape), np.broadcast_to(_tops(m, s, size.tobytes()).reshape(size.shape), shape)
        sizes = np.broadcast_to(size, shape).ravel()

        def ratio(v: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # L at y = d + e^v, its slope
            log_y = np.log(sizes[which] + np.exp(v))
            value = (0.5 * (v + log_y - 2 * m) / s**2 + 1) * (log_y - v)
            return value, np.exp(v) * (_steepness(log_y, m, s) - _steepness(v, m, s))

        def log_ratio(v: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # -log L where it is positive
            value, slope = ratio(v, which)
            value = np.maximum(value, 1e-300)
            return -np.log(value), -slope / value

        low, high = np.full(shape, m - 40 * s - 40), np.full(shape, m + 40 * s + 40)
        highest = ratio(tops.ravel(), np.arange(tops.size))[0].reshape(shape)
        covered = t >= highest  # every L is below t
        rising = increasing_root(ratio, t, low, tops, tops - 1)
        tail = (t > 0) & ~covered
        falling = np.where(tail, 0.0, np.inf)
        falling[tail] = increasing_root(
            lambda v, which: log_ratio(v, np.flatnonzero(tail)[which]), -np.log(t[tail]), tops[tail], high[tail]
        )
        y, z = np.log(size + np.exp(rising)), np.log(size + np.exp(falling))
        under_0 = normal_cdf((y - m) / s) + np.where(tail, normal_cdf((m - z) / s), 0.0)
        under_b = normal_cdf((rising - m) / s) + np.where(tail, normal_cdf((m - falling) / s), 0.0)
        return np.where(covered, 1.0, under_0), np.where(covered, 1.0, under_b)


def _steepness(log: np.ndarray, m: float, s: float) -> np.ndarray:
    """A = -(log τ)′ of a log-normal law at e^log."""
    steepness: np.ndarray = (1 + (log - m) / s**2) * np.exp(-log)
    return steepness


@lru_cache(maxsize=64)
def _tops(m: float, s: float, sizes: bytes) -> np.ndarray:
    """log(y - d) at which L is largest: A(y - d) - A(y), which rises through 0 there."""
    size = np.frombuffer(sizes)

    def gap(v: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_y = np.log(size[which] + np.exp(v))
        by_v = (1 / s**2 - 1 - (v - m) / s**2) * np.exp(-v)
        by_y = (1 / s**2 - 1 - (log_y - m) / s**2) * np.exp(-log_y)
        value = _steepness(v, m, s) - _steepness(log_y, m, s)
        return value, by_v - by_y * np.exp(v - log_y)

    # Left of its own mode A rises.
    mode = np.full(size.shape, m + 1 - s * s)
    return increasing_root(gap, np.zeros(size.shape), np.full(size.shape, m - 40 * s - 40), mode)
