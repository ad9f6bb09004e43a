"""A law against itself moved by d, for every d at once: what an observed coordinate does to an inner one.

In c·x + b and c·x^g the inner coordinate moves by an amount that is proportional to the observed one. The pair
(law, law moved by d) is an experiment E_d. Each class here gives its log-likelihood ratio's distribution in closed
form, and the *slip* of the chord rule: for d between d_1 and d_2, E_d is no easier to tell apart than E_{d_1} or
E_{d_2} chosen at random with the weights of linear interpolation, once its two laws are allowed to change by
slip · (d_2 - d_1)² in total variation.

Why: let the density of one of the two laws, in coordinates in which the other one stands still, be ρ_d. The chord
(1 - λ) ρ_{d_1} + λ ρ_{d_2} differs from ρ_d by at most (d_2 - d_1)²/8 ∫ |∂²ρ/∂d²| in total, half of that in total
variation; and telling a mixture apart is no easier than telling its parts apart with the choice revealed. Where the
density jumps at an end of its support the coordinates are those in which the end stands still (then the other law
moves, and the mass that leaves the support is one more outcome).

Only the direction d > 0 is written down. Moving the other way exchanges the two laws.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import erf

from glsmooth.bounds.arrays import normal_cdf
from glsmooth.bounds.base import NotApplicable
from glsmooth.laws import Exponential, HalfNormal, Law, LogNormal, Normal, Rayleigh, Uniform

__all__ = ["STANDARD", "Flat", "Move", "Standard", "move_of"]


def _moved(bend: float) -> tuple[float, float]:
    """The slip where one law stands still and the moved density's slope has the total variation ``bend``."""
    return 0.0, bend / 16


@dataclass(frozen=True, kw_only=True)
class Move(ABC):
    """E_d for every size d >= 0.

    Attributes:
        slip: (under μ_β₀, under μ_β), the chord rule's slips per squared step.
        limit: from this size on the two laws share nothing.
        ordered: is a larger move easier to tell apart (Blackwell's order)?
        slow: does ``below`` search for roots?
    """

    slip: tuple[float, float]
    limit: float = math.inf
    ordered: bool = True
    slow: bool = False

    @abstractmethod
    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """P(L <= t) under the law as it is and under the moved one, for sizes > 0: broadcast arrays."""


@dataclass(frozen=True)
class _Reversed(Move):
    """The same moves the other way: the two laws change places, and L its sign."""

    forward: Move

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # L has no atom at a finite value in the classes that are reversed, so < and <= agree.
        under_0, under_b = self.forward.below(-t, size)
        return 1 - under_b, 1 - under_0


class Standard(Move):
    """Normal laws; the size is in standard deviations. Its own reverse."""

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z, half = t / size, size / 2
        return normal_cdf(z + half), normal_cdf(z - half)


STANDARD = Standard(slip=_moved(Normal(0.0, 1.0).bend))


@dataclass(frozen=True)
class _ExponentialRescaled(Move):
    """y ~ Exp(1) against e^(power d) y: exponential laws (power 1) and, y being x²/2 scale², Rayleigh's (power 2)."""

    power: float

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log = self.power * size
        y = np.clip((t + log) / -np.expm1(-log), 0.0, 1e300)  # L = y (1 - e^-log) - log
        return -np.expm1(-y), -np.expm1(-y * np.exp(-log))


@dataclass(frozen=True)
class _HalfNormalRescaled(Move):
    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = np.sqrt(np.clip((t + size) / -np.expm1(-2 * size), 0.0, 1e300))  # L = x² (1 - e^-2d) - d, x = y / √2 scale
        return erf(x), erf(x * np.exp(-size))


@dataclass(frozen=True)
class _HalfNormalShifted(Move):
    scale: float

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = np.maximum(self.scale**2 * t / size + size / 2, size)  # L = (2 y d - d²) / (2 scale²) for y > d
        unit = self.scale * math.sqrt(2)
        return erf(y / unit), erf((y - size) / unit)


@dataclass(frozen=True)
class _RayleighShifted(Move):
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
        w = np.exp(_increasing_root(ratio, t, np.full(shape, -300.0), np.full(shape, 7.0), start))
        return -np.expm1(-0.5 * (w + d) ** 2), -np.expm1(-0.5 * w * w)


@dataclass(frozen=True)
class _LogNormalShifted(Move):
    """L rises from -inf at the moved end of the support to a largest value and falls back to 0.

    Its derivative is A(y) - A(y - d) with A = -(log τ)′, which rises and then falls: it has one zero.
    """

    law: LogNormal

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        m, s = self.law.values["loc"], self.law.values["scale"]
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
        rising = _increasing_root(ratio, t, low, tops, tops - 1)
        tail = (t > 0) & ~covered
        falling = np.where(tail, 0.0, np.inf)
        falling[tail] = _increasing_root(
            lambda v, which: log_ratio(v, np.flatnonzero(tail)[which]), -np.log(t[tail]), tops[tail], high[tail]
        )
        y, z = np.log(size + np.exp(rising)), np.log(size + np.exp(falling))
        under_0 = normal_cdf((y - m) / s) + np.where(tail, normal_cdf((m - z) / s), 0.0)
        under_b = normal_cdf((rising - m) / s) + np.where(tail, normal_cdf((m - falling) / s), 0.0)
        return np.where(covered, 1.0, under_0), np.where(covered, 1.0, under_b)


def _steepness(log: np.ndarray, m: float, s: float) -> np.ndarray:
    """A = -(log τ)′ of a log-normal law at e^log."""
    return (1 + (log - m) / s**2) * np.exp(-log)


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
    return _increasing_root(gap, np.zeros(size.shape), np.full(size.shape, m - 40 * s - 40), mode)


def _increasing_root(
    function: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    level: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Where increasing functions pass ``level`` between ``low`` and ``high``: Newton's method, bisection where it
    leaves the bracket.

    A test {L <= t} whose ends are off by e is worse than the best one by about e², so 1e-8 is plenty.

    Args:
        function: (v, which) -> value and slope of the functions numbered ``which`` (a flat index).
        level, low, high, start: arrays of one shape; the root is an end where the level is not reached between them.
    """
    shape, low, high, level = low.shape, low.ravel(), high.ravel(), np.broadcast_to(level, low.shape).ravel()
    root = (low + high) / 2 if start is None else np.clip(start.ravel(), low, high)
    which = np.arange(root.size)
    v, a, b = root.copy(), low, high
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(80):
            value, slope = function(v, which)
            less = value < level[which]
            a, b = np.where(less, v, a), np.where(less, b, v)
            following = v - (value - level[which]) / slope
            following = np.where((following > a) & (following < b), following, (a + b) / 2)
            open_ = np.abs(following - v) > 1e-8
            root[which] = following
            if not open_.any():
                break
            which, v, a, b = which[open_], following[open_], a[open_], b[open_]
    return root.reshape(shape)


class Flat(Move):
    """Moves under which L is constant where both laws live: two numbers say everything."""

    @abstractmethod
    def overlap(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mass that either law has where both live: under the law as it is, under the moved one."""

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        common_0, common_b = self.overlap(size)
        with np.errstate(divide="ignore", invalid="ignore"):
            under = np.log(common_b) - np.log(common_0) <= t
        return np.where(under, 1.0, 1 - common_0), np.where(under, common_b, 0.0)


@dataclass(frozen=True)
class _FlatReversed(Flat):
    """As :class:`_Reversed`."""

    forward: Flat

    def overlap(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        common_0, common_b = self.forward.overlap(size)
        return common_b, common_0


@dataclass(frozen=True)
class _UniformShifted(Flat):
    """The shares that leave are linear in d: the chord rule is exact up to the width of the law."""

    width: float

    def overlap(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        common = np.clip(1 - size / self.width, 0.0, 1.0)
        return common, common


@dataclass(frozen=True)
class _ExponentialShifted(Flat):
    rate: float

    def overlap(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.exp(-self.rate * size), np.ones_like(size)


@dataclass(frozen=True)
class _UniformRescaled(Flat):
    """Uniform on [low, high], 0 <= low, against e^d times it."""

    low: float
    high: float

    def overlap(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        width = self.high - self.low
        moved = np.minimum(self.low * np.exp(np.minimum(size, 700.0)), self.high)
        back = np.maximum(self.high * np.exp(-size), self.low)
        return (self.high - moved) / width, (back - self.low) / width


def move_of(law: Law, rescaled: bool, forward: bool) -> tuple[Move, float]:
    """The moves of ``law`` by shifts, or by factors e^d (``rescaled``), upwards (``forward``) or downwards.

    Returns:
        The moves, and the number by which d is multiplied to give their size.

    Raises:
        NotApplicable: a law that is not one of glsmooth's own.
    """
    v = law.values
    move: Move
    if isinstance(law, LogNormal if rescaled else Normal):
        return STANDARD, 1 / v["scale"]
    if rescaled:
        if isinstance(law, (Exponential, Rayleigh)):
            power = 2.0 if isinstance(law, Rayleigh) else 1.0
            move = _ExponentialRescaled(power, slip=_moved(law.bend_of_log))
        elif isinstance(law, HalfNormal):
            move = _HalfNormalRescaled(slip=_moved(law.bend_of_log))
        elif isinstance(law, Uniform) and v["low"] >= 0:
            # The shares that leave are low (e^d - 1) and high (1 - e^-d), over the width; neither bends by more than
            # high.
            low, high = v["low"], v["high"]
            bend = high / (8 * (high - low))
            limit = math.log(high / low) if low > 0 else math.inf
            move = _UniformRescaled(low, high, slip=(bend if low > 0 else 0.0, bend), limit=limit)
        else:
            raise NotApplicable(
                f"no bound knows how {law!r} moves when it is rescaled given another parameter; use one of glsmooth's "
                "positive laws"
            )
    elif isinstance(law, Uniform):
        # The shares that leave are linear in d: the chord rule is exact up to the width.
        width = v["high"] - v["low"]
        move = _UniformShifted(width, slip=(0.0, 0.0), limit=width)
    elif isinstance(law, Exponential):
        # The chord of the share 1 - e^(-rate d) that lies below the moved end.
        move = _ExponentialShifted(v["rate"], slip=(v["rate"] ** 2 / 8, 0.0))
    elif isinstance(law, HalfNormal):
        # With y - d as the coordinate the moved law stands still, and τ(y + d) bends inside the support only; the mass
        # below 0 is one more outcome, whose share F(d) bends by |τ′|.
        move = _HalfNormalShifted(v["scale"], slip=((law.bend + law.steepest) / 16, 0.0))
    elif isinstance(law, Rayleigh):
        move = _RayleighShifted(v["scale"], slip=_moved(law.bend), slow=True)
    elif isinstance(law, LogNormal):
        move = _LogNormalShifted(law, slip=_moved(law.bend), ordered=False, slow=True)
    else:
        raise NotApplicable(
            f"no bound knows how {law!r} moves when it is shifted given another parameter; use one of glsmooth's laws"
        )
    return (move if forward else _reversed(move)), 1.0


def _reversed(move: Move) -> Move:
    kind: Callable[..., Move] = _FlatReversed if isinstance(move, Flat) else _Reversed
    under_0, under_b = move.slip
    return kind(move, slip=(under_b, under_0), limit=move.limit, ordered=move.ordered, slow=move.slow)
