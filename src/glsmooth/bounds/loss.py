"""Distribution of the log-likelihood ratio L = log dμ_β/dμ_β₀, and the trade-off curve that it gives.

Everything here errs on one side. A law of L is replaced, where it cannot be written down exactly, by one whose
likelihood ratio is spread further with the same masses under both measures (each cell's mass is moved to the
cell's two ends, keeping both totals). Such a pair of measures is easier to tell apart (Blackwell's order), so the
required probability can only come out higher. It is the "connect the dots" rule of privacy-loss accounting
(Doroshenko et al. 2022). The error is of second order in the width of the cells.

All arrays are float64 numpy arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from scipy.fft import irfft, next_fast_len, rfft
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from glsmooth.bounds.base import NotApplicable
from glsmooth.laws import Law
from glsmooth.laws.arrays import on_array, on_number, one_thread
from glsmooth.laws.moves import Flat, Move
from glsmooth.laws.normal import STANDARD

__all__ = [
    "Atoms",
    "Gaussian",
    "Monotone",
    "Moved",
    "Observed",
    "Sum",
    "Tradeoff",
    "combine",
    "cyclic_pair",
    "scalar_pair",
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


def _conditioning(law: Law) -> float:
    """At least sup |x| τ(x) and 1: a place that is rounded by a share e of itself moves no more than this times e of
    the mass. Large for narrow laws far from 0."""
    return 1.0 + (law.scale_speed if math.isfinite(law.scale_speed) else 0.0)


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
        return max(0.0, kept - CLOSED * _conditioning(law))

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
        return min(1.0, needed + CLOSED * _conditioning(law))


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
        return below_0 + _both(plain.only_0, smear.only_0), below_b

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
        return _both(self.plain.only_0, self.smear.only_0), _both(self.plain.only_b, self.smear.only_b)

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


def _both(a: float, b: float) -> float:
    """Probability that one of two independent things happens."""
    return a + b - a * b


def _masses(law: Law, edges: np.ndarray) -> np.ndarray:
    """Mass of each cell between ascending edges, precise relative to itself in both tails."""
    # From whichever tail is nearer; edges ascend, so a few at the middle are computed from both.
    split = int(np.searchsorted(edges, on_number(law.icdf, 0.5)))
    lower = np.diff(on_array(law.cdf, edges[: split + 1]))
    upper = -np.diff(on_array(law.survival, edges[split:]))
    return np.maximum(np.concatenate((lower, upper)), 0.0)


def _edges(law: Law, shift: float, scale: float, count: int) -> np.ndarray:
    """Cell edges that resolve both α ~ law and shift + scale·α, with the ends of both supports."""
    own = on_array(law.icdf, ndtr(np.linspace(-7.9, 7.9, count)))
    ends = [v for v in (*law.interval, law.mode_point) if math.isfinite(v)]
    own = np.concatenate((own, ends))
    edges = np.unique(np.concatenate((own, shift + scale * own)))
    return np.concatenate(([-math.inf], edges, [math.inf]))


def _spread(low: np.ndarray, high: np.ndarray, p_0: np.ndarray, p_b: np.ndarray) -> tuple[Atoms, np.ndarray]:
    """Move the mass of each cell to the ends of its range [low, high] of L, keeping both totals.

    Returns:
        The atoms, and the cell that each of them comes from.
    """
    only_0, only_b = float(p_0[p_b <= 0].sum()), float(p_b[p_0 <= 0].sum())
    cell = np.flatnonzero((p_0 > 0) & (p_b > 0))
    low, high, p_0, p_b = low[cell], high[cell], p_0[cell], p_b[cell]
    mean = np.log(p_b) - np.log(p_0)
    low = np.minimum(np.nan_to_num(low, nan=-np.inf, neginf=-np.inf, posinf=np.inf), mean)
    high = np.maximum(np.nan_to_num(high, nan=np.inf, neginf=-np.inf, posinf=np.inf), mean)
    # A range that is practically unbounded on one side: that end goes to infinity.
    low = np.where(mean - low > 30, -np.inf, low)
    high = np.where(high - mean > 30, np.inf, high)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        flat = high - low < 1e-13
        # Share of the μ_β₀-mass at the upper end; the two infinite ends are its limits.
        share = np.where(np.isinf(high), 0.0, np.expm1(mean - low) / np.expm1(high - low))
        share = np.where(np.isinf(low), np.exp(mean - high), share)
        share = np.clip(np.where(flat, 1.0, share), 0.0, 1.0)
        upper_0, lower_0 = p_0 * share, p_0 * (1 - share)
        upper_b = np.where(np.isinf(low), p_b, p_b * share * np.exp(high - mean))
        upper_b = np.where(flat, p_b, np.minimum(upper_b, p_b))
        upper_b = np.where(np.isinf(high), p_b * -np.expm1(low - mean), upper_b)
    wide = np.isinf(low) & np.isinf(high)
    upper_0, lower_0 = np.where(wide, 0.0, upper_0), np.where(wide, p_0, lower_0)
    upper_b = np.where(wide, p_b, upper_b)
    lower_b = p_b - upper_b
    only_0 += float(lower_0[np.isinf(low)].sum())
    only_b += float(upper_b[np.isinf(high)].sum())
    down, up = np.isfinite(low) & ~flat, np.isfinite(high)
    ell = np.concatenate((low[down], high[up]))
    p_0 = np.concatenate((lower_0[down], upper_0[up]))
    p_b = np.concatenate((lower_b[down], upper_b[up]))
    atoms = Atoms(ell, p_0, p_b, np.zeros_like(ell), only_0, only_b)
    return atoms, np.concatenate((cell[down], cell[up]))


@lru_cache(maxsize=256)
def scalar_pair(law: Law, shift: float, scale: float, count: int = 3000) -> Atoms:
    """L of α ~ ``law`` against ``shift`` + ``scale``·α, by cells, rounded towards more required probability.

    Where L is monotone between edges its range in a cell is that between the ends; otherwise the two unimodal
    densities bound it.
    """
    standard, origin, unit = law.in_own_units
    if standard != law:
        # Far from 0 the edges of cells would be rounded to more than bounds allow for. What the offset is off by moves
        # one of the laws.
        offset = (shift + (scale - 1) * origin) / unit
        error = 1e-15 * (abs(shift) + (1 + scale) * abs(origin)) / unit / min(1.0, scale)
        atoms = scalar_pair(standard, offset, scale, count)
        return replace(atoms, slip_b=min(1.0, atoms.slip_b + error))
    edges = _edges(law, shift, scale, count)
    turns = law.ratio_turns(shift, scale)
    if turns:
        edges = np.sort(np.append(edges, turns))
    p_0 = _masses(law, edges)
    p_b = _masses(law, (edges - shift) / scale)
    log_0 = on_array(law.log_prob, edges)
    log_b = on_array(law.log_prob, (edges - shift) / scale) - math.log(scale)
    with np.errstate(invalid="ignore"):
        if turns is not None:
            ratio = log_b - log_0
            # At infinite edges the densities are both zero; the cell's tiny mass goes to the infinite end.
            low, high = np.fmin(ratio[:-1], ratio[1:]), np.fmax(ratio[:-1], ratio[1:])
            unknown = np.isnan(ratio[:-1]) | np.isnan(ratio[1:])
            low, high = np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)
        else:
            low = _least(log_b) - _most(log_0, edges, law.mode_point, law)
            high = _most(log_b, edges, shift + scale * law.mode_point, law, scale) - _least(log_0)
            low, high = _by_slopes(law, shift, scale, edges, low, high)
    atoms, _ = _spread(low, high, p_0, p_b)
    # Each edge is rounded; the masses beside it, and L in its cells, are off by what that moves.
    rounding = 1e-15 * count * (_conditioning(law) - 1)
    return replace(atoms, slip_0=rounding, slip_b=rounding)


def _by_slopes(
    law: Law, shift: float, scale: float, edges: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Narrower ranges of L in cells, where its slope is bounded: what counts where the two laws hardly differ."""
    with one_thread():
        slopes_0 = law.slope_range(torch.from_numpy(edges))
        slopes_b = law.slope_range(torch.from_numpy((edges - shift) / scale))
    if slopes_0 is None or slopes_b is None:
        return low, high
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        least_0, most_0 = slopes_0.numpy()
        least_b, most_b = slopes_b.numpy() / scale
        middle = (edges[:-1] + edges[1:]) / 2
        ratio = on_array(law.log_prob, (middle - shift) / scale) - math.log(scale) - on_array(law.log_prob, middle)
        reach = np.maximum(np.abs(most_b - least_0), np.abs(least_b - most_0)) * np.diff(edges) / 2
    known = np.isfinite(ratio) & np.isfinite(reach)
    return np.where(known, np.fmax(low, ratio - reach), low), np.where(known, np.fmin(high, ratio + reach), high)


def _least(log_density: np.ndarray) -> np.ndarray:
    """Least value in each cell of a unimodal log-density: at one of the ends."""
    return np.minimum(log_density[:-1], log_density[1:])


def _most(log_density: np.ndarray, edges: np.ndarray, mode: float, law: Law, scale: float = 1.0) -> np.ndarray:
    """Largest value in each cell: at an end, or at the mode where the cell holds it."""
    most = np.maximum(log_density[:-1], log_density[1:])
    top = math.log(law.peak) - math.log(scale) if math.isfinite(law.peak) else math.inf
    return np.where((edges[:-1] <= mode) & (mode <= edges[1:]), top, most)


def cyclic_pair(masses: np.ndarray, shift: int) -> Atoms:
    """L on a cycle: ``masses`` (size,) of the smoothing law against the same rolled by ``shift``. Exact."""
    rolled = np.roll(masses, shift)
    both = (masses > 0) & (rolled > 0)
    p_0, p_b = masses[both], rolled[both]
    return Atoms(
        np.log(p_b) - np.log(p_0),
        p_0,
        p_b,
        np.zeros(len(p_0)),
        float(masses[~both].sum()),
        float(rolled[~both].sum()),
    )


@dataclass(frozen=True)
class Observed:
    """θ = α against ``scale``·α observed, and an inner coordinate that moves by α·``step`` given it.

    Attributes:
        outer: law of α, positive; its logarithm has a log-concave density, so that its own ratio is monotone.
        scale: of the observed coordinate.
        inner: law of the inner coordinate.
        step: the inner coordinate's move for each unit of α; not 0.
        rescaled: it is multiplied by e^(α·step) instead of moved by α·step.
    """

    outer: Law
    scale: float
    inner: Law
    step: float
    rescaled: bool

    @property
    def move(self) -> Move:
        return move_of(self.inner, self.rescaled, self.step > 0)[0]

    def atoms(self, count: int) -> Atoms:
        """L by about twice ``count`` cells of θ, rounded towards more required probability.

        In a cell the inner coordinate's move is replaced by the moves at the cell's two ends, one of them chosen at
        random with the weights of linear interpolation and revealed; what this changes in the inner law is booked as
        a slip (:mod:`glsmooth.laws.moves`). For either choice the ratio of the outer coordinate is moved to the
        ends of its range in the cell. Both make the two laws easier to tell apart, and both cost an error of second
        order in the cell's width.
        """
        outer, scale = self.outer, self.scale
        move, unit = move_of(self.inner, self.rescaled, self.step > 0)
        speed = abs(self.step) * unit / scale  # of the size, in θ
        edges = _observed_edges(outer, scale, count, move.limit / max(speed, 5e-324))  # it may underflow
        size = edges * speed
        # The two tails beyond the outermost edges are given away.
        only_0 = on_number(outer.cdf, edges[0]) + on_number(outer.survival, edges[-1])
        only_b = on_number(outer.cdf, edges[0] / scale) + on_number(outer.survival, edges[-1] / scale)
        p_0, far_0, slip_0 = _shares(outer, edges)
        p_b, far_b, slip_b = _shares(outer, edges / scale)

        lost_0, lost_b = (p * slip * np.diff(size) ** 2 for p, slip in zip((p_0, p_b), move.slip, strict=True))
        if move.ordered:
            # Where the chord rule costs more than taking the larger of the two moves, that one is taken.
            told = np.subtract(*move.below(np.zeros(1), np.maximum(size, _LEAST)))  # total variation of a move
            instead = np.zeros_like(p_b)
            whole = np.maximum(p_0, p_b) * np.abs(np.diff(told)) < lost_0 + lost_b
        else:
            # Taking either of the two moves costs what moving one law onto the other does.
            instead = p_b * np.minimum(np.diff(size) * self.inner.peak, 1.0)
            whole = instead < lost_b
        far_0, far_b = np.where(whole, p_0, far_0), np.where(whole, p_b, far_b)
        slip_0 += float(lost_0[~whole].sum())
        slip_b += float(np.where(whole, instead, lost_b).sum())

        # Edges are rounded, and so are the places of inner laws that are not a matter of sizes alone.
        places = _conditioning(outer) + (_conditioning(self.inner) if move.slow else 0.0)
        slip_0, slip_b = slip_0 + 1e-15 * count * places, slip_b + 1e-15 * count * places

        low, high = self._ratios(edges)
        parts = []
        for mass_0, mass_b, end in ((p_0 - far_0, p_b - far_b, size[:-1]), (far_0, far_b, size[1:])):
            atoms, cell = _spread(low, high, mass_0, mass_b)
            only_0, only_b = only_0 + atoms.only_0, only_b + atoms.only_b
            parts.append((atoms.ell, atoms.p_0, atoms.p_b, end[cell]))
        ell, p_0, p_b, spread = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        atoms = Atoms(ell, p_0, p_b, np.maximum(spread, _LEAST), only_0, only_b, slip_0, slip_b, move)
        return _flattened(atoms, move) if isinstance(move, Flat) else atoms

    def _ratios(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Range of the outer coordinate's own log-ratio in each cell."""
        log_0 = on_array(self.outer.log_prob, edges)
        log_b = on_array(self.outer.log_prob, edges / self.scale) - math.log(self.scale)
        with np.errstate(invalid="ignore"):
            ratio = log_b - log_0
        unknown = np.isnan(ratio[:-1]) | np.isnan(ratio[1:])
        low, high = np.fmin(ratio[:-1], ratio[1:]), np.fmax(ratio[:-1], ratio[1:])
        return np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)


@dataclass(frozen=True)
class Moved:
    """An inner coordinate alone, moved by ``shift``: for laws whose shifts have no order."""

    law: Law
    shift: float

    @property
    def move(self) -> Move:
        return move_of(self.law, False, self.shift > 0)[0]

    def atoms(self, count: int) -> Atoms:
        """L, exactly: one atom, smeared by its move."""
        move, unit = move_of(self.law, False, self.shift > 0)
        rounding = 1e-14 * _conditioning(self.law)
        size = np.array([max(abs(self.shift) * unit, _LEAST)])
        return replace(NOTHING, spread=size, move=move, slip_0=rounding, slip_b=rounding)


def move_of(law: Law, rescaled: bool, forward: bool) -> tuple[Move, float]:
    """The moves of ``law`` by shifts, or by factors e^d (``rescaled``), upwards (``forward``) or downwards.

    Returns:
        The moves, and the number by which d is multiplied to give their size.

    Raises:
        NotApplicable: a law that does not say how it moves.
    """
    scale = law.gaussian_scale_of_log if rescaled else law.gaussian_scale
    if scale is not None:
        return STANDARD, 1 / scale
    move = law.rescalings if rescaled else law.shifts
    if move is None:
        how, which = ("rescaled", "positive laws") if rescaled else ("shifted", "laws")
        raise NotApplicable(
            f"no bound knows how {law!r} moves when it is {how} given another parameter; use one of glsmooth's {which}"
        )
    return (move if forward else move.reversed()), 1.0


#: Stands for a size of 0, by which no ratio could be divided.
_LEAST = 1e-150


def _observed_edges(law: Law, scale: float, count: int, kink: float) -> np.ndarray:
    """Cell edges in [0, ∞) for an observed α against ``scale``·α."""
    # The cells' errors are quadratic in their width, so the best density of edges is the cube root of the law's: that
    # of a normal score √3 times as wide.
    tail = float(ndtr(-7.9 / math.sqrt(3)))
    own = on_array(law.icdf, ndtr(math.sqrt(3) * ndtri(np.linspace(tail, 1 - tail, count))))
    own = np.concatenate((own, [v for v in law.interval if math.isfinite(v)]))
    edges = np.unique(np.concatenate((own, scale * own, [kink])))
    return edges[np.isfinite(edges)]


def _flattened(atoms: Atoms, move: Flat) -> Atoms:
    """Moves under which L is constant where both laws live: each atom stays one."""
    common_0, common_b = move.overlap(atoms.spread)
    only_0 = atoms.only_0 + float((atoms.p_0 * (1 - common_0)).sum())
    only_b = atoms.only_b + float((atoms.p_b * (1 - common_b)).sum())
    both = (common_0 > 0) & (common_b > 0)
    ell = atoms.ell[both] + np.log(common_b[both]) - np.log(common_0[both])
    return replace(
        atoms,
        ell=ell,
        p_0=(atoms.p_0 * common_0)[both],
        p_b=(atoms.p_b * common_b)[both],
        spread=np.zeros(len(ell)),
        only_0=only_0,
        only_b=only_b,
        move=STANDARD,
    )


def _shares(law: Law, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Masses of cells, their integrals of a weight that rises from 0 to 1 in each, and the latter's rounding in all."""
    mass = _masses(law, edges)
    split = int(np.searchsorted(edges, on_number(law.icdf, 0.5)))
    lower, upper = on_array(law.lower_mean, edges[: split + 1]), on_array(law.upper_mean, edges[split:])
    moment = np.concatenate((np.diff(lower), -np.diff(upper)))
    width = np.maximum(np.diff(edges), 1e-300)  # two edges may have been rounded to one number
    share = np.clip((moment - edges[:-1] * mass) / width, 0.0, mass)
    # Some machine epsilons of the cumulative masses and moments that the cell is a difference of.
    cumulative = np.minimum(on_array(law.cdf, edges[1:]), on_array(law.survival, edges[:-1])) * edges[1:]
    cumulative += np.concatenate((lower[1:], upper[:-1]))
    rounding = np.minimum(mass, 2e-15 * cumulative / width)
    return mass, share, float(rounding.sum())


def _on_grid(atoms: Atoms, start: float, step: float, count: int) -> Atoms:
    """Move unsmeared atoms to the points start + step·j, keeping both totals of each."""
    ell = atoms.ell
    only_0, only_b = atoms.only_0, atoms.only_b
    end = start + step * (count - 1)
    low, high = ell < start, ell > end
    keep = ~(low | high)
    mass_0, mass_b = np.zeros(count), np.zeros(count)
    # Below the grid: what μ_β has there moves up to the first point, the rest of μ_β₀ to -inf. Above: mirrored.
    below = float(atoms.p_b[low].sum())
    mass_b[0] += below
    mass_0[0] += below * math.exp(-start) if below else 0.0
    only_0 += max(0.0, float(atoms.p_0[low].sum()) - (below * math.exp(-start) if below else 0.0))
    above = float(atoms.p_0[high].sum())
    mass_0[-1] += above
    mass_b[-1] += above * math.exp(end) if above else 0.0
    only_b += max(0.0, float(atoms.p_b[high].sum()) - (above * math.exp(end) if above else 0.0))
    position = np.minimum(((ell[keep] - start) / step).astype(np.int64), count - 2)
    offset = ell[keep] - (start + step * position)
    share = np.clip(np.expm1(offset) / math.expm1(step), 0.0, 1.0)
    up_b = np.clip(share * np.exp(step - offset), 0.0, 1.0)
    for target, mass, part in ((mass_0, atoms.p_0[keep], share), (mass_b, atoms.p_b[keep], up_b)):
        target += np.bincount(position, mass * (1 - part), minlength=count)
        target += np.bincount(position + 1, mass * part, minlength=count)
    grid = start + step * np.arange(count)
    return Atoms(grid, mass_0, mass_b, np.zeros(count), only_0, only_b, atoms.slip_0, atoms.slip_b)


def _range(atoms: Atoms) -> tuple[float, float]:
    """Where L decides: below it lies 1e-10 of μ_β, above it 1e-10 of μ_β₀, and never past ±30.

    What is cut off stays on its side of any threshold inside, so the cut costs no more than those masses.
    """
    if not len(atoms.ell):
        return 0.0, 0.0  # the two measures have disjoint supports
    order = np.argsort(atoms.ell)
    ell = atoms.ell[order]
    first = int(np.searchsorted(np.cumsum(atoms.p_b[order]), 1e-10))
    last = len(ell) - 1 - int(np.searchsorted(np.cumsum(atoms.p_0[order][::-1]), 1e-10))
    # Laws that hardly overlap may have all of one's mass beyond.
    low, high = (float(np.clip(ell[i], -30.0, 30.0)) for i in (min(first, len(ell) - 1), max(last, 0)))
    return (low, high) if low < high else (high, low)


def convolve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Convolution of two non-negative arrays; rounding below zero is cut off."""
    size = next_fast_len(len(a) + len(b) - 1, real=True)
    return np.maximum(irfft(rfft(a, size) * rfft(b, size), size)[: len(a) + len(b) - 1], 0.0)


def _convolve(parts: list[Atoms], step: float) -> Atoms:
    """Sum of independent unsmeared losses on one grid of the given step."""
    total: Atoms | None = None
    for part in parts:
        low, high = _range(part)
        start = step * math.floor(low / step)
        grid = _on_grid(part, start, step, max(2, math.ceil((high - start) / step) + 1))
        if total is None:
            total = grid
            continue
        p_0 = convolve(total.p_0, grid.p_0)
        p_b = convolve(total.p_b, grid.p_b)
        ell = total.ell[0] + grid.ell[0] + step * np.arange(len(p_0))
        # A fast convolution's error is some machine epsilons of the product of the two norms, in the Euclidean norm.
        rounding = max(
            1e-14 * math.sqrt(len(p_0)) * float(np.linalg.norm(a) * np.linalg.norm(b))
            for a, b in ((total.p_0, grid.p_0), (total.p_b, grid.p_b))
        )
        total = Atoms(
            ell,
            p_0,
            p_b,
            np.zeros(len(ell)),
            _both(total.only_0, grid.only_0),
            _both(total.only_b, grid.only_b),
            total.slip_0 + grid.slip_0 + rounding,
            total.slip_b + grid.slip_b + rounding,
        )
    assert total is not None
    return total


def _product(a: Atoms, b: Atoms) -> Atoms:
    """Sum of two independent unsmeared losses, atom by atom: exact."""
    return Atoms(
        np.add.outer(a.ell, b.ell).ravel(),
        np.multiply.outer(a.p_0, b.p_0).ravel(),
        np.multiply.outer(a.p_b, b.p_b).ravel(),
        np.zeros(len(a.ell) * len(b.ell)),
        _both(a.only_0, b.only_0),
        _both(a.only_b, b.only_b),
        a.slip_0 + b.slip_0,
        a.slip_b + b.slip_b,
    )


def _pruned(atoms: Atoms, least: float = 1e-13) -> Atoms:
    """Without atoms that are negligible under both measures; their masses go to the infinite ends."""
    keep = np.maximum(atoms.p_0, atoms.p_b) > least / max(1, len(atoms.ell))
    return replace(
        atoms,
        ell=atoms.ell[keep],
        p_0=atoms.p_0[keep],
        p_b=atoms.p_b[keep],
        spread=atoms.spread[keep],
        only_0=atoms.only_0 + float(atoms.p_0[~keep].sum()),
        only_b=atoms.only_b + float(atoms.p_b[~keep].sum()),
    )


#: Cells for each law of an observed coordinate: for a bound, for a coarse one, to find a threshold.
CELLS, COARSE_CELLS, GUIDE_CELLS = 1500, 150, 60
#: Most moves that a bound evaluates for one line.
_BUDGET, _COARSE_BUDGET = 4_000_000, 600_000


def combine(delta: float, plain: list[Atoms], conditional: list[Observed | Moved], coarse: bool = False) -> Tradeoff:
    """Trade-off of independent parts: a normal shift of size ``delta``, unsmeared atoms, observed coordinates.

    Sums of atoms are exact while there are few; beyond that they move to a grid, rounded towards more required
    probability. Under a normal smear of size s a grid of step h costs about h²/(100 s²), hence its step. A coarse
    curve is quicker and higher.
    """
    if not plain and not conditional:
        return Gaussian(delta)
    cells = COARSE_CELLS if coarse else CELLS
    smears = [part for part in conditional if part.move is STANDARD]
    alone = not plain and delta == 0 and len(conditional) == 1
    for part in conditional:
        if part.move is STANDARD:
            continue
        if alone and not isinstance(part.move, Flat):
            return Sum(NOTHING, part.atoms(cells), part.atoms(GUIDE_CELLS))
        plain = [*plain, _tabulated(part, coarse)]
    guides = [part.atoms(GUIDE_CELLS) for part in smears]
    smear = math.hypot(delta, *(_typical(guide) for guide in guides))
    total = _total(plain, smear, coarse) if plain else NOTHING
    if not smears:
        return total.smeared(delta) if delta > 0 else total
    rough = _smears(guides, delta)
    guide: Supported = rough
    if len(total.ell) > 100:
        low, high = _range(total)
        guide = Sum(_convolve([total], max((high - low) / 100, 1e-9)), rough, rough)
    elif plain:
        guide = Sum(total, rough, rough)
    room = (_COARSE_BUDGET if coarse else _BUDGET) / max(1, len(total.ell))
    cells = min(cells, max(GUIDE_CELLS, int(room ** (1 / len(smears)) / 8)))
    return Sum(total, _smears([part.atoms(cells) for part in smears], delta), guide)


def _total(plain: list[Atoms], smear: float, coarse: bool) -> Atoms:
    """The sum of unsmeared losses, beside a normal smear of size ``smear``."""
    many = math.prod(len(part.ell) for part in plain)
    span = sum(high - low for low, high in map(_range, plain))
    if smear > 0:
        step = min(1.0, max((4e-2 if coarse else 4e-3) * smear, span / (400 if coarse else 4_000)))
        exact = many <= span / step
    else:
        step = max(span, 1e-9) / (5_000 if coarse else 60_000)
        exact = many <= 60_000
    if not exact:
        return _pruned(_convolve(plain, step))
    total = plain[0]
    for part in plain[1:]:
        total = _product(total, part)
    return _pruned(total)


def _smears(parts: list[Atoms], delta: float) -> Atoms:
    """The sum of independent normally smeared losses."""
    total = parts[0]
    for part in parts[1:]:
        total = replace(_product(total, part), spread=np.hypot.outer(total.spread, part.spread).ravel())
    return total.smeared(delta) if delta > 0 else total


@lru_cache(maxsize=256)
def _tabulated(part: Observed | Moved, coarse: bool) -> Atoms:
    """A part as unsmeared atoms: its masses between many thresholds, moved to these."""
    if isinstance(part.move, Flat):
        return part.atoms(COARSE_CELLS if coarse else CELLS)
    cells, count = (COARSE_CELLS // 2, 200) if coarse else (COARSE_CELLS * 2, 2_000)
    if part.move.slow and isinstance(part, Observed):
        cells, count = cells // 3, count // 4
    curve = part.atoms(cells)
    if len(curve.ell) == 0:
        return replace(curve, spread=np.zeros(0), move=STANDARD)
    # Where the bulk of either law lies.
    rough = np.linspace(*curve.reach(), 200)
    below = curve.masses_below(rough)
    first = int(np.searchsorted(below[:, 1], 1e-11))
    last = int(np.searchsorted(below[:, 0], below[-1, 0] - 1e-11))
    t = np.linspace(rough[max(0, first - 1)], rough[min(len(rough) - 1, last + 1)], count)
    everything = curve.only_0 + float(curve.p_0.sum()), float(curve.p_b.sum())
    masses = np.diff(np.vstack(((0.0, 0.0), curve.masses_below(t), everything)), axis=0)
    ends = np.concatenate(([-np.inf], t, [np.inf]))
    atoms, _ = _spread(ends[:-1], ends[1:], *np.maximum(masses, 0.0).T)
    rounding = 1e-15 * count
    return replace(
        atoms,
        only_b=atoms.only_b + curve.only_b,
        slip_0=curve.slip_0 + rounding,
        slip_b=curve.slip_b + rounding,
    )


def _typical(part: Atoms) -> float:
    """Lower quartile of the smear, by mass: what the step of a grid beside it is measured by."""
    if not len(part.ell):
        return 0.0
    order = np.argsort(part.spread)
    mass = np.cumsum(part.p_b[order])
    return float(part.spread[order][np.searchsorted(mass, mass[-1] / 4)])
