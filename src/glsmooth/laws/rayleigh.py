"""The Rayleigh law."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glsmooth.laws.base import Law
from glsmooth.laws.exponential import GUMBEL_BEND, ExponentialRescaled
from glsmooth.laws.moves import Move, increasing_root, slip_of

__all__ = ["Rayleigh"]


class Rayleigh(Law):
    """Rayleigh law: the length of a two-dimensional normal vector with standard deviation ``scale`` an axis."""

    fields = ("scale",)
    log_concave = True
    log_concave_in_log = True
    shifts_smoothly = True
    rescales_smoothly = True

    def __init__(self, scale: float) -> None:
        super().__init__(scale=scale)

    @property
    def interval(self) -> tuple[float, float]:
        return 0.0, math.inf

    @property
    def mode_of_log(self) -> float:
        return self.scale * math.sqrt(2)

    @property
    def peak_of_log(self) -> float:
        return 2 / math.e  # at x² = 2 scale²

    @property
    def mode_point(self) -> float:
        return self.scale

    @property
    def mean(self) -> Tensor:
        return torch.tensor(self.scale * math.sqrt(math.pi / 2), dtype=torch.float64)

    @property
    def bend(self) -> float:
        # τ′ jumps to 1/scale² at 0, falls to -2 e^-1.5 / scale² and rises to 0.
        return (2 + 4 * math.exp(-1.5)) / self.scale**2

    @property
    def bend_of_log(self) -> float:
        return 4 * GUMBEL_BEND  # log X is half the logarithm of an exponential variable, and a constant

    @property
    def shifts(self) -> Move:
        return _Shifted(self.scale, slip=slip_of(self.bend), slow=True)

    @property
    def rescalings(self) -> Move:
        return ExponentialRescaled(2.0, slip=slip_of(self.bend_of_log))

    @property
    def second_moment(self) -> float:
        return 2 * self.scale**2

    def lower_mean(self, value: Tensor) -> Tensor:
        u = 0.5 * (value.clamp(min=0.0) / self.scale) ** 2
        mean: Tensor = self.mean * torch.special.gammainc(torch.full_like(u, 1.5), u)
        return mean

    def upper_mean(self, value: Tensor) -> Tensor:
        u = 0.5 * (value.clamp(min=0.0) / self.scale) ** 2
        mean: Tensor = self.mean * torch.special.gammaincc(torch.full_like(u, 1.5), u)
        return mean

    def slope(self, x: Tensor) -> Tensor:
        return 1 / x - x / self.scale**2

    def score_turns(self, a: float, b: float) -> list[float] | None:
        return None if a and b else []

    def ratio_turns(self, shift: float, scale: float) -> list[float] | None:
        if scale == 1 or shift == 0:
            return []
        # 1/(θ - b) - (θ - b)/(k s)² = 1/θ - θ/s² with b, k = shift, scale: a cubic in θ over s.
        b, k2 = shift / self.scale, scale**2
        roots = np.roots([1 - 1 / k2, b * (2 / k2 - 1), -b * b / k2, b])
        return [self.scale * float(root.real) for root in roots if abs(root.imag) < 1e-6 * (1 + abs(root.real))]

    def _log_density(self, x: Tensor) -> Tensor:
        return torch.log(x) - 2 * math.log(self.scale) - 0.5 * (x / self.scale) ** 2

    def cdf(self, value: Tensor) -> Tensor:
        return -torch.expm1(-0.5 * (value.clamp(min=0.0) / self.scale) ** 2)

    def survival(self, value: Tensor) -> Tensor:
        return torch.exp(-0.5 * (value.clamp(min=0.0) / self.scale) ** 2)

    def icdf(self, value: Tensor) -> Tensor:
        return self.scale * torch.sqrt(-2 * torch.log1p(-value))


@dataclass(frozen=True)
class _Shifted(Move):
    scale: float

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        d = size / self.scale

        shape = np.broadcast_shapes(np.shape(t), np.shape(d))
        t, d = np.broadcast_to(t, shape), np.broadcast_to(d, shape)
        sizes = d.ravel()

        def ratio(v: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # L at y = d + e^v, increasing
            w, d = np.exp(v), sizes[which]
            return -np.log1p(d / w) + d * w + d * d / 2, d / (w + d) + d * w

        # From above: w/(w + d) = e^t alone, or the linear part alone; the smaller of the two is near the root.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            ratio_part = np.where(t < 0, d / np.expm1(np.clip(-t, 1e-300, 700.0)), np.inf)
            linear_part = np.maximum((t - d * d / 2) / d, 0.0) + 1.0
            start = np.log(np.clip(np.minimum(ratio_part, linear_part), 1e-130, 1e3))
        w = np.exp(increasing_root(ratio, t, np.full(shape, -300.0), np.full(shape, 7.0), start))
        return -np.expm1(-0.5 * (w + d) ** 2), -np.expm1(-0.5 * w * w)
