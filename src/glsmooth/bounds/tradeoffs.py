"""Trade-off curves, from the distribution of the log-likelihood ratio L = log dμ_β/dμ_β₀.

Everything here errs on one side. A law of L is replaced, where it cannot be written down exactly, by one whose
likelihood ratio is spread further with the same masses under both measures. Such a pair of measures is easier to tell
apart (Blackwell's order), so the required probability can only come out higher. :mod:`glsmooth.bounds.cells` builds
such laws from smoothing laws, :mod:`glsmooth.bounds.sums` adds independent ones.

All arrays are float64 numpy arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from glsmooth.laws import Law
from glsmooth.laws.arrays import on_number
from glsmooth.laws.checks import cdf_error, is_own, largest_place
from glsmooth.laws.moves import Move
from glsmooth.laws.normal import STANDARD

__all__ = [
    "CLOSED",
    "MARGIN",
    "NOTHING",
    "ROUNDING",
    "Atoms",
    "Gaussian",
    "Monotone",
    "Sum",
    "Supported",
    "Tradeoff",
    "conditioning",
    "either",
    "line_inverse",
    "line_value",
    "lines_value",
]


#: Added to every probability on its safe side: far above the rounding of the sums that lead to it.
MARGIN = 1e-9

#: The same for closed forms, which are good to some machine epsilons.
CLOSED = 1e-14

#: Rounding of a sum of masses, where a slope may magnify it.
ROUNDING = 1e-12


class Tradeoff(Protocol):
    """Trade-off curve N_β of one parameter: the least E_{μ_β} F over all F with E_{μ_β₀} F >= p."""

    def __call__(self, p: float) -> float:
        """N_β(p), rounded down."""

    def inverse(self, q: float) -> float:
        """The least p that forces E_{μ_β} F >= q, rounded up; ``inverse(1/2)`` is h_min(β)."""


class Supported(Tradeoff, Protocol):
    """A curve with its supporting lines, for bounds on many curves by one line each.

    For any t, N⁻¹(q) <= a(t) + exp(-t) (q - b(t)) and N(p) >= b(t) + exp(t) (p - a(t)) with a, b = ``below(t)``.
    """

    def below(self, t: float) -> tuple[float, float]:
        """P(L <= t) under μ_β₀ and under μ_β."""

    def threshold(self, level: float, under_beta: bool) -> float:
        """A t with P(L <= t) near ``level``, under μ_β or under μ_β₀. It need not be exact."""


@dataclass(frozen=True)
class Gaussian:
    """A normal law shifted by ``delta`` of its standard deviations: Φ(Φ⁻¹(q) + δ), exactly."""

    delta: float

    def __call__(self, p: float) -> float:
        return max(0.0, float(ndtr(ndtri(p) - self.delta)) - self._rounding)

    def inverse(self, q: float) -> float:
        return min(1.0, float(ndtr(ndtri(q) + self.delta)) + self._rounding)

    @property
    def _rounding(self) -> float:
        return CLOSED if self.delta else 0.0  # nothing moved: exact

    def below(self, t: float) -> tuple[float, float]:
        if self.delta == 0:
            return float(t >= 0), float(t >= 0)
        return float(ndtr(t / self.delta + self.delta / 2)), float(ndtr(t / self.delta - self.delta / 2))

    def threshold(self, level: float, under_beta: bool) -> float:
        mean = self.delta**2 / 2
        return float(self.delta * ndtri(level)) + (mean if under_beta else -mean)


def conditioning(law: Law) -> float:
    """At least sup |x| τ(x) and 1: a place that is rounded by a share e of itself moves no more than this times e of
    the mass. Large for narrow laws far from 0."""
    speed = law.scale_speed
    if not math.isfinite(speed):
        if is_own(law):  # it need not say where its mode is
            return 2.0 + 2 * largest_place(law)
        # With one mode m, |x - m| τ(x) is no more than the mass between the two.
        speed = 1.0 + (abs(law.mode_point) * law.peak if law.mode_point else 0.0)
    return 1.0 + speed


@dataclass(frozen=True)
class Monotone:
    """α ~ law against ``shift`` + ``scale``·α where L is monotone in θ: the worst F is a half-line, exactly.

    L is increasing in θ when θ grows stochastically (shift > 0 or scale > 1) and decreasing otherwise.
    """

    law: Law
    shift: float
    scale: float

    @property
    def _grows(self) -> bool:
        return self.shift > 0 or self.scale > 1

    def __call__(self, p: float) -> float:
        law = self.law
        if p <= 0 or p >= 1:
            return float(p >= 1) * self._full()
        if self._grows:
            kept = on_number(law.cdf, (on_number(law.icdf, p) - self.shift) / self.scale)
        else:
            kept = on_number(law.survival, (on_number(law.icdf, 1 - p) - self.shift) / self.scale)
        return max(0.0, kept - self._rounding)

    def _full(self) -> float:
        """N(1): the mass of μ_β where μ_β₀ has some."""
        low, high = self.law.interval
        if self._grows:
            return on_number(self.law.cdf, (high - self.shift) / self.scale) if math.isfinite(high) else 1.0
        return on_number(self.law.survival, (low - self.shift) / self.scale) if math.isfinite(low) else 1.0

    def inverse(self, q: float) -> float:
        law = self.law
        if q >= 1:
            return 1.0
        if self._grows:
            needed = on_number(law.cdf, self.shift + self.scale * on_number(law.icdf, q))
        else:
            needed = on_number(law.survival, self.shift + self.scale * on_number(law.icdf, 1 - q))
        return min(1.0, needed + self._rounding)

    @property
    def _rounding(self) -> float:
        return CLOSED * conditioning(self.law) + (cdf_error(self.law) if is_own(self.law) else 0.0)


@dataclass(frozen=True, eq=False)
class Atoms:
    """Finitely many values of L, each smeared by an independent move of an inner coordinate.

    Given atom i, L = ell_i + (the log-ratio of a move of size spread_i). Besides, L = -inf has mass ``only_0`` under
    μ_β₀ and L = +inf has mass ``only_b`` under μ_β.

    Attributes:
        ell: (K,) finite values of L.
        p_0, p_b: (K,) masses under μ_β₀ and μ_β.
        spread: (K,) sizes >= 0 of the moves; all zero, or all positive.
        slip_0, slip_b: the true laws may differ from these masses by so much, in total variation.
        move: which moves smear; normal shifts unless said otherwise.
    """

    ell: np.ndarray
    p_0: np.ndarray
    p_b: np.ndarray
    spread: np.ndarray
    only_0: float = 0.0
    only_b: float = 0.0
    slip_0: float = 0.0
    slip_b: float = 0.0
    move: Move = STANDARD

    def __post_init__(self) -> None:
        for array in (self.ell, self.p_0, self.p_b, self.spread):
            array.flags.writeable = False  # several are kept for other callers

    def smeared(self, delta: float) -> Atoms:
        """The same with one more independent normal shift of effective size ``delta``."""
        return replace(self, spread=np.hypot(self.spread, delta))

    @property
    def smooth(self) -> bool:
        """Is every atom smeared?"""
        return bool(self.spread.size) and float(self.spread.min()) > 0

    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Corners (p, N(p)) of the piecewise linear curve when nothing is smeared, slips on the safe side."""
        order = np.argsort(self.ell, kind="stable")
        p = self.only_0 + self.slip_0 + np.concatenate(([0.0], np.cumsum(self.p_0[order])))
        return p, np.concatenate(([0.0], np.cumsum(self.p_b[order]))) - self.slip_b

    def mass_below(self, t: float) -> tuple[float, float]:
        """P(L <= t) under μ_β₀ and under μ_β, without slips."""
        if not self.smooth:
            under = self.ell <= t
            return self.only_0 + float(self.p_0[under].sum()), float(self.p_b[under].sum())
        below_0, below_b = self.move.below(t - self.ell, self.spread)
        return self.only_0 + float(self.p_0 @ below_0), float(self.p_b @ below_b)

    def masses_below(self, t: np.ndarray) -> np.ndarray:
        """:meth:`mass_below` of smeared atoms at many thresholds (n,): (n, 2)."""
        found, rows = [], max(1, _CHUNK // max(1, len(self.ell)))
        for i in range(0, len(t), rows):
            below_0, below_b = self.move.below(t[i : i + rows, None] - self.ell, self.spread)
            found.append(np.stack((self.only_0 + below_0 @ self.p_0, below_b @ self.p_b), axis=1))
        return np.concatenate(found)

    def below(self, t: float) -> tuple[float, float]:
        below_0, below_b = self.mass_below(t)
        return below_0 + self.slip_0, below_b - self.slip_b

    def threshold(self, level: float, under_beta: bool) -> float:
        if not len(self.ell):
            return 0.0
        if not self.smooth:
            order = np.argsort(self.ell)
            mass = np.cumsum((self.p_b if under_beta else self.p_0)[order]) + (0.0 if under_beta else self.only_0)
            return float(self.ell[order][min(int(np.searchsorted(mass, level)), len(order) - 1)])

        def excess(t: float) -> float:
            return self.mass_below(t)[under_beta] - level

        low, high = self.reach()
        if excess(high) <= 0:
            return high
        if excess(low) >= 0:
            return low
        middle = float((self.p_b * self.ell).sum())
        if low < middle < high:  # near the mean L moves by a few of its deviations at most
            low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        return float(brentq(excess, low, high, xtol=1e-5 * float(self.spread.min() + 1e-3), maxiter=1000))

    def reach(self) -> tuple[float, float]:
        """An interval that holds nearly all of L's mass."""
        if self.move is STANDARD:
            reach = self.spread * (9 + self.spread)
            return float((self.ell - reach).min()), float((self.ell + reach).max())
        total_0, _ = self.mass_below(math.inf)
        low, high, width = float(self.ell.min()), float(self.ell.max()), 1.0
        while width < 1000 and self.mass_below(low - width)[1] > 1e-12:
            width *= 2
        low, width = low - width, 1.0
        while width < 1000 and self.mass_below(high + width)[0] < total_0 - 1e-12:
            width *= 2
        return low, high + width

    def inverse(self, q: float) -> float:
        if q >= 1 - self.only_b - self.slip_b:
            return 1.0
        if not self.smooth:
            p, n = self.corners()
            # Where the curve is flat in N the larger p is the safe one; q sits above 0, so flats are mass of
            # μ_β₀ alone, which comes first in the order of L.
            return min(1.0, float(np.interp(q, n, p)) + ROUNDING) if q < n[-1] else 1.0
        return line_inverse(self, self.threshold(q, under_beta=True), q)

    def __call__(self, p: float) -> float:
        if p <= self.only_0 + self.slip_0:
            return 0.0
        if not self.smooth:
            corners, n = self.corners()
            return max(0.0, float(np.interp(p, corners, n)) - ROUNDING)
        return lines_value(self, p)


def line_inverse(curve: Supported, t: float, q: float) -> float:
    """N⁻¹(q) from above by the supporting line at any t: N⁻¹ is concave with the slope e^-t at N = P_β(L <= t)."""
    below_0, below_b = curve.below(t)
    return min(1.0, below_0 + math.exp(min(-t, 700.0)) * (q - below_b + ROUNDING) + MARGIN)


def lines_value(curve: Supported, p: float) -> float:
    """N(p) from below by the best of a few lines: near p = 1 the threshold at p itself has an unbounded slope, which
    magnifies every rounding, and a line from a little further down is better."""
    levels = (p,) if p < 0.999 else (p - 1e-3, p - 1e-5, min(p, 1 - 1e-7))
    return max(line_value(curve, curve.threshold(level, under_beta=False), p) for level in levels)


def line_value(curve: Supported, t: float, p: float) -> float:
    """N(p) from below by the supporting line at any t."""
    below_0, below_b = curve.below(t)
    return max(0.0, below_b + math.exp(min(t, 700.0)) * (p - below_0 - ROUNDING) - MARGIN)


@dataclass(frozen=True, eq=False)
class Sum(Supported):
    """Two independent losses: unsmeared atoms and smeared ones, never multiplied out.

    A rough version of the curve tells roughly where its threshold is. Any threshold is sound, a near one is tight.
    """

    plain: Atoms
    smear: Atoms
    guide: Supported
    _known: dict[float, tuple[float, float]] = field(default_factory=dict, repr=False)

    def mass_below(self, t: float) -> tuple[float, float]:
        """P(L <= t) under μ_β₀ and under μ_β, without slips."""
        if t not in self._known:
            self._known[t] = self._mass_below(t)
        return self._known[t]

    def _mass_below(self, t: float) -> tuple[float, float]:
        plain, smear = self.plain, self.smear
        below_0 = below_b = 0.0
        rows = max(1, _CHUNK // max(1, len(smear.ell)))
        for i in range(0, len(plain.ell), rows):
            part = slice(i, i + rows)
            under_0, under_b = smear.move.below((t - plain.ell[part])[:, None] - smear.ell, smear.spread)
            below_0 += float(plain.p_0[part] @ (under_0 @ smear.p_0))
            below_b += float(plain.p_b[part] @ (under_b @ smear.p_b))
        return below_0 + either(plain.only_0, smear.only_0), below_b

    def below(self, t: float) -> tuple[float, float]:
        below_0, below_b = self.mass_below(t)
        return below_0 + self.plain.slip_0 + self.smear.slip_0, below_b - self.plain.slip_b - self.smear.slip_b

    def threshold(self, level: float, under_beta: bool) -> float:
        # The line at a threshold that misses the level by e costs about e² over the density of L. A table of many
        # moves is evaluated as seldom as possible.
        entries = len(self.plain.ell) * len(self.smear.ell)
        trials = 40 if entries < 100_000 else 3
        near = 1e-5 if entries < 100_000 else 1e-4
        tried: dict[float, float] = {}

        def error(t: float) -> float:
            tried[t] = self.mass_below(t)[under_beta] - level
            return tried[t]

        t = self.guide.threshold(level, under_beta)
        step = max(-0.3, min(0.3, -2 * error(t)))
        start = t
        while abs(tried[t]) > near and step and len(tried) < trials:
            t += step
            step *= 2
            if error(t) * tried[start] < 0:
                brentq(error, start, t, xtol=1e-7, maxiter=trials, disp=False)
                break
            start = t
        return min(tried, key=lambda x: abs(tried[x]))

    @property
    def _only(self) -> tuple[float, float]:
        return either(self.plain.only_0, self.smear.only_0), either(self.plain.only_b, self.smear.only_b)

    def inverse(self, q: float) -> float:
        if q >= 1 - self._only[1] - self.plain.slip_b - self.smear.slip_b:
            return 1.0
        return line_inverse(self, self.threshold(q, under_beta=True), q)

    def __call__(self, p: float) -> float:
        if p <= self._only[0] + self.plain.slip_0 + self.smear.slip_0:
            return 0.0
        return lines_value(self, p)


#: Entries of a table of moves that are worked on at once: they stay in the processor's cache.
_CHUNK = 60_000

#: L = 0, always.
NOTHING = Atoms(np.zeros(1), np.ones(1), np.ones(1), np.zeros(1))


def either(a: float, b: float) -> float:
    """Probability that one of two independent things happens."""
    return a + b - a * b
