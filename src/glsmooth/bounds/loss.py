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
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from scipy.fft import irfft, next_fast_len, rfft
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from torch import Tensor

from glsmooth.laws import Law

__all__ = [
    "Atoms",
    "Conditional",
    "Gaussian",
    "Guarded",
    "Monotone",
    "Tradeoff",
    "combine",
    "cyclic_pair",
    "density_nodes",
    "scalar_pair",
]

#: Added to every probability that went through quadrature or root finding; their own errors are far below it.
MARGIN = 1e-9


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
        return float(ndtr(ndtri(p) - self.delta))

    def inverse(self, q: float) -> float:
        return float(ndtr(ndtri(q) + self.delta))

    def below(self, t: float) -> tuple[float, float]:
        if self.delta == 0:
            return float(t >= 0), float(t >= 0)
        return float(ndtr(t / self.delta + self.delta / 2)), float(ndtr(t / self.delta - self.delta / 2))

    def threshold(self, level: float, under_beta: bool) -> float:
        mean = self.delta**2 / 2
        return float(self.delta * ndtri(level)) + (mean if under_beta else -mean)


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
            return _at(law.cdf, (_at(law.icdf, p) - self.shift) / self.scale)
        return _at(law.survival, (_at(law.icdf, 1 - p) - self.shift) / self.scale)

    def _full(self) -> float:
        """N(1): the mass of μ_β where μ_β₀ has some."""
        low, high = self.law.interval
        if self._grows:
            return _at(self.law.cdf, (high - self.shift) / self.scale) if math.isfinite(high) else 1.0
        return _at(self.law.survival, (low - self.shift) / self.scale) if math.isfinite(low) else 1.0

    def inverse(self, q: float) -> float:
        law = self.law
        if q >= 1:
            return 1.0
        if self._grows:
            return _at(law.cdf, self.shift + self.scale * _at(law.icdf, q))
        return _at(law.survival, self.shift + self.scale * _at(law.icdf, 1 - q))


@dataclass(frozen=True)
class Atoms:
    """Finitely many values of L, each smeared by an independent normal shift.

    Given atom i, L = ell_i + (a normal privacy loss of effective size spread_i). Besides, L = -inf has mass
    ``only_0`` under μ_β₀ and L = +inf has mass ``only_b`` under μ_β.

    Attributes:
        ell: (K,) finite values of L.
        p_0, p_b: (K,) masses under μ_β₀ and μ_β.
        spread: (K,) sizes >= 0 of the normal smear; all zero, or all positive.
    """

    ell: np.ndarray
    p_0: np.ndarray
    p_b: np.ndarray
    spread: np.ndarray
    only_0: float = 0.0
    only_b: float = 0.0

    def smeared(self, delta: float) -> Atoms:
        """The same with one more independent normal shift of effective size ``delta``."""
        return Atoms(self.ell, self.p_0, self.p_b, np.hypot(self.spread, delta), self.only_0, self.only_b)

    @property
    def _smooth(self) -> bool:
        return bool(self.spread.size) and float(self.spread.min()) > 0

    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Corners (p, N(p)) of the piecewise linear curve when nothing is smeared."""
        order = np.argsort(self.ell, kind="stable")
        p = self.only_0 + np.concatenate(([0.0], np.cumsum(self.p_0[order])))
        return p, np.concatenate(([0.0], np.cumsum(self.p_b[order])))

    def below(self, t: float) -> tuple[float, float]:
        if not self._smooth:
            under = self.ell <= t
            return self.only_0 + float(self.p_0[under].sum()), float(self.p_b[under].sum())
        z = (t - self.ell) / self.spread
        half = self.spread / 2
        return self.only_0 + float((self.p_0 * ndtr(z + half)).sum()), float((self.p_b * ndtr(z - half)).sum())

    def threshold(self, level: float, under_beta: bool) -> float:
        if not len(self.ell):
            return 0.0
        if not self._smooth:
            order = np.argsort(self.ell)
            mass = np.cumsum((self.p_b if under_beta else self.p_0)[order]) + (0.0 if under_beta else self.only_0)
            return float(self.ell[order][min(int(np.searchsorted(mass, level)), len(order) - 1)])

        def excess(t: float) -> float:
            return self.below(t)[under_beta] - level

        reach = self.spread * (9 + self.spread)
        low, high = float((self.ell - reach).min()), float((self.ell + reach).max())
        if excess(high) <= 0:
            return high
        if excess(low) >= 0:
            return low
        middle = float((self.p_b * self.ell).sum())
        if low < middle < high:  # near the mean L moves by a few of its deviations at most
            low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        return float(brentq(excess, low, high, xtol=1e-5 * float(self.spread.min() + 1e-3)))

    def inverse(self, q: float) -> float:
        if q >= 1 - self.only_b:
            return 1.0
        if not self._smooth:
            p, n = self.corners()
            # Where the curve is flat in N the larger p is the safe one; q sits above 0, so flats are mass of
            # μ_β₀ alone, which comes first in the order of L.
            return min(1.0, float(np.interp(q, n, p)) + 1e-12) if q < n[-1] else 1.0
        t = self.threshold(q, under_beta=True)
        below_0, below_b = self.below(t)
        # N⁻¹ is concave with slope exp(-t) at N = below_b, so its tangent lies above it, whatever t is.
        return min(1.0, below_0 + math.exp(-t) * (q - below_b) + MARGIN)

    def __call__(self, p: float) -> float:
        if p <= self.only_0:
            return 0.0
        if not self._smooth:
            corners, n = self.corners()
            return max(0.0, float(np.interp(p, corners, n)) - 1e-12)
        t = self.threshold(p, under_beta=False)
        below_0, below_b = self.below(t)
        return max(0.0, below_b + math.exp(min(t, 700.0)) * (p - below_0) - MARGIN)


@dataclass(frozen=True)
class Guarded:
    """One curve from two quadratures that share no node: the worse value, and twice their difference beyond it."""

    one: Tradeoff
    other: Tradeoff

    def __call__(self, p: float) -> float:
        a, b = self.one(p), self.other(p)
        return max(0.0, min(a, b) - 2 * abs(a - b))

    def inverse(self, q: float) -> float:
        a, b = self.one.inverse(q), self.other.inverse(q)
        return min(1.0, max(a, b) + 2 * abs(a - b))

    def below(self, t: float) -> tuple[float, float]:
        (a_0, a_b), (b_0, b_b) = self.one.below(t), self.other.below(t)  # type: ignore[attr-defined]
        return max(a_0, b_0) + 2 * abs(a_0 - b_0), min(a_b, b_b) - 2 * abs(a_b - b_b)

    def threshold(self, level: float, under_beta: bool) -> float:
        return float(self.one.threshold(level, under_beta))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Conditional:
    """An observed coordinate θ_o by nodes, and what is known given each node.

    Attributes:
        ell, p_0, p_b: (K,) the observed coordinate's own log-ratio and masses at the nodes.
        size: (K,) effective size of the normal shift of the inner coordinate given the node.
        only_0, only_b: as in :class:`Atoms`.
        inner: for inner laws that are not normal, the pair given node i; ``size`` is then zero.
    """

    ell: np.ndarray
    p_0: np.ndarray
    p_b: np.ndarray
    size: np.ndarray
    only_0: float
    only_b: float
    inner: Callable[[int], Atoms] | None = None

    def atoms(self) -> Atoms:
        if self.inner is None:
            return Atoms(self.ell, self.p_0, self.p_b, self.size, self.only_0, self.only_b)
        only_0, only_b = self.only_0, self.only_b
        parts = []
        for i in range(len(self.ell)):
            atoms = self.inner(i)
            only_0 += self.p_0[i] * atoms.only_0
            only_b += self.p_b[i] * atoms.only_b
            parts.append((atoms.ell + self.ell[i], atoms.p_0 * self.p_0[i], atoms.p_b * self.p_b[i]))
        ell, p_0, p_b = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Atoms(ell, p_0, p_b, np.zeros_like(ell), only_0, only_b)


def _numpy(function: Callable[[Tensor], Tensor], x: np.ndarray) -> np.ndarray:
    return function(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))).numpy()


def _at(function: Callable[[Tensor], Tensor], x: float) -> float:
    return float(function(torch.tensor(x, dtype=torch.float64)))


def _masses(law: Law, edges: np.ndarray) -> np.ndarray:
    """Mass of each cell between ascending edges, precise relative to itself in both tails."""
    # From whichever tail is nearer; edges ascend, so a few at the middle are computed from both.
    split = int(np.searchsorted(edges, _at(law.icdf, 0.5)))
    lower = np.diff(_numpy(law.cdf, edges[: split + 1]))
    upper = -np.diff(_numpy(law.survival, edges[split:]))
    return np.maximum(np.concatenate((lower, upper)), 0.0)


def _edges(law: Law, shift: float, scale: float, count: int) -> np.ndarray:
    """Cell edges that resolve both α ~ law and shift + scale·α, with the ends of both supports."""
    own = _numpy(law.icdf, ndtr(np.linspace(-7.9, 7.9, count)))
    ends = [v for v in (*law.interval, law.mode_point) if math.isfinite(v)]
    own = np.concatenate((own, ends))
    edges = np.unique(np.concatenate((own, shift + scale * own)))
    return np.concatenate(([-math.inf], edges, [math.inf]))


def _spread(low: np.ndarray, high: np.ndarray, p_0: np.ndarray, p_b: np.ndarray) -> Atoms:
    """Move the mass of each cell to the ends of its range [low, high] of L, keeping both totals."""
    only_0, only_b = float(p_0[p_b <= 0].sum()), float(p_b[p_0 <= 0].sum())
    both = (p_0 > 0) & (p_b > 0)
    low, high, p_0, p_b = low[both], high[both], p_0[both], p_b[both]
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
        share = np.clip(np.where(flat, 0.5, share), 0.0, 1.0)
        upper_0, lower_0 = p_0 * share, p_0 * (1 - share)
        upper_b = np.where(np.isinf(low), p_b, p_b * share * np.exp(high - mean))
        upper_b = np.where(flat, p_b / 2, np.minimum(upper_b, p_b))
        upper_b = np.where(np.isinf(high), p_b * -np.expm1(low - mean), upper_b)
    wide = np.isinf(low) & np.isinf(high)
    upper_0, lower_0 = np.where(wide, 0.0, upper_0), np.where(wide, p_0, lower_0)
    upper_b = np.where(wide, p_b, upper_b)
    lower_b = p_b - upper_b
    only_0 += float(lower_0[np.isinf(low)].sum())
    only_b += float(upper_b[np.isinf(high)].sum())
    down, up = np.isfinite(low), np.isfinite(high)
    ell = np.concatenate((low[down], high[up]))
    p_0 = np.concatenate((lower_0[down], upper_0[up]))
    p_b = np.concatenate((lower_b[down], upper_b[up]))
    return Atoms(ell, p_0, p_b, np.zeros_like(ell), only_0, only_b)


@lru_cache(maxsize=256)
def scalar_pair(law: Law, shift: float, scale: float, count: int = 3000) -> Atoms:
    """L of α ~ ``law`` against ``shift`` + ``scale``·α, by cells, rounded towards more required probability.

    Where L is monotone between edges its range in a cell is that between the ends; otherwise the two unimodal
    densities bound it.
    """
    edges = _edges(law, shift, scale, count)
    normal = law.log_concave and law.symmetric_about is not None and math.isinf(law.interval[0])
    if normal and scale != 1:  # L is a parabola in θ: with its vertex among the edges it is monotone in each cell
        centre = law.symmetric_about or 0.0
        vertex = (shift + scale * centre - scale**2 * centre) / (1 - scale**2)
        edges = np.sort(np.append(edges, vertex))
    p_0 = _masses(law, edges)
    p_b = _masses(law, (edges - shift) / scale)
    log_0 = _numpy(law.log_prob, edges)
    log_b = _numpy(law.log_prob, (edges - shift) / scale) - math.log(scale)
    monotone = normal or (scale == 1 and law.log_concave) or (shift == 0 and law.log_concave_in_log)
    with np.errstate(invalid="ignore"):
        if monotone:
            ratio = log_b - log_0
            # At infinite edges the densities are both zero; the cell's tiny mass goes to the infinite end.
            low, high = np.fmin(ratio[:-1], ratio[1:]), np.fmax(ratio[:-1], ratio[1:])
            unknown = np.isnan(ratio[:-1]) | np.isnan(ratio[1:])
            low, high = np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)
        else:
            low = _least(log_b) - _most(log_0, edges, law.mode_point, law)
            high = _most(log_b, edges, shift + scale * law.mode_point, law, scale) - _least(log_0)
    return _spread(low, high, p_0, p_b)


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


def density_nodes(law: Law, scale: float, panels: int = 40, order: int = 8) -> Conditional:
    """Quadrature nodes for an observed θ = α against ``scale``·α: Gauss-Legendre on panels between quantiles.

    The returned ``size`` is θ / scale at the nodes, the value of α under μ_β; callers put the inner shift there.
    """
    levels = ndtr(np.linspace(-7.9, 7.9, panels + 1))
    own = _numpy(law.icdf, levels)
    own = np.concatenate((own, [v for v in law.interval if math.isfinite(v)]))
    edges = np.unique(np.concatenate((own, scale * own)))
    x, w = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges) / 2
    theta = (edges[:-1] + half)[:, None] + half[:, None] * x
    weights = (half[:, None] * w).ravel()
    theta = theta.ravel()
    log_0 = _numpy(law.log_prob, theta)
    log_b = _numpy(law.log_prob, theta / scale) - math.log(scale)
    p_0, p_b = weights * np.exp(log_0), weights * np.exp(log_b)
    both = np.isfinite(log_0) & np.isfinite(log_b) & (p_0 > 0) & (p_b > 0)
    only_0 = float(p_0[~both].sum()) + max(0.0, 1.0 - float(p_0.sum()))
    only_b = float(p_b[~both].sum()) + max(0.0, 1.0 - float(p_b.sum()))
    return Conditional(log_b[both] - log_0[both], p_0[both], p_b[both], theta[both] / scale, only_0, only_b)


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
    return Atoms(grid, mass_0, mass_b, np.zeros(count), only_0, only_b)


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
    low, high = max(-30.0, float(ell[min(first, len(ell) - 1)])), min(30.0, float(ell[max(last, 0)]))
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
        only_0 = total.only_0 + grid.only_0 - total.only_0 * grid.only_0
        only_b = total.only_b + grid.only_b - total.only_b * grid.only_b
        total = Atoms(ell, p_0, p_b, np.zeros(len(ell)), only_0, only_b)
    assert total is not None
    return total


def _product(a: Atoms, b: Atoms) -> Atoms:
    """Sum of two independent losses, atom by atom: exact."""
    return Atoms(
        np.add.outer(a.ell, b.ell).ravel(),
        np.multiply.outer(a.p_0, b.p_0).ravel(),
        np.multiply.outer(a.p_b, b.p_b).ravel(),
        np.hypot.outer(a.spread, b.spread).ravel(),
        a.only_0 + b.only_0 - a.only_0 * b.only_0,
        a.only_b + b.only_b - a.only_b * b.only_b,
    )


def _pruned(atoms: Atoms, least: float = 1e-13) -> Atoms:
    """Without atoms that are negligible under both measures; their masses go to the infinite ends."""
    keep = np.maximum(atoms.p_0, atoms.p_b) > least / max(1, len(atoms.ell))
    only_0 = atoms.only_0 + float(atoms.p_0[~keep].sum())
    only_b = atoms.only_b + float(atoms.p_b[~keep].sum())
    return Atoms(atoms.ell[keep], atoms.p_0[keep], atoms.p_b[keep], atoms.spread[keep], only_0, only_b)


def combine(delta: float, plain: list[Atoms], conditional: list[Conditional], coarse: bool = False) -> Tradeoff:
    """Trade-off of independent parts: a normal shift of size ``delta``, unsmeared atoms, conditional normals.

    Sums of atoms are exact while there are few; beyond that they move to a grid, rounded towards more required
    probability. Under a normal smear of size s a grid of step h costs about h²/(100 s²), hence its step. A coarse
    grid is a quicker and higher bound.
    """
    if not plain and not conditional:
        return Gaussian(delta)
    smears = [part.atoms() for part in conditional]
    plain = plain + [part for part in smears if not part._smooth]
    smears = [part for part in smears if part._smooth]
    smear = math.hypot(delta, *(_typical(part) for part in smears))
    total: Atoms | None = None
    if plain:
        many = math.prod(len(part.ell) for part in plain)
        span = sum(high - low for low, high in map(_range, plain))
        if smear > 0:
            step = max((4e-2 if coarse else 4e-3) * smear, span / (800 if coarse else 8_000))
            exact = many <= span / step
        else:
            step = max(span, 1e-9) / (5_000 if coarse else 60_000)
            exact = many <= 60_000
        if exact:
            total = plain[0]
            for part in plain[1:]:
                total = _product(total, part)
        else:
            total = _convolve(plain, step)
        total = _pruned(total)
    for part in smears:
        total = part if total is None else _product(total, part)
    assert total is not None
    return total.smeared(delta) if delta > 0 else total


def _typical(part: Atoms) -> float:
    """Lower quartile of the smear, by mass: what the step of a grid beside it is measured by."""
    order = np.argsort(part.spread)
    mass = np.cumsum(part.p_b[order])
    return float(part.spread[order][np.searchsorted(mass, mass[-1] / 4)])
