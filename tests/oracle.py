"""A second opinion on required probabilities: explicit classifiers, whose worth nobody has to prove.

``required_probability`` claims that no classifier F with P_{μ_β₀}(F) >= h has P_{μ_β}(F) <= 1/2. So one explicit F
with P_{μ_β}(F) <= 1/2 and P_{μ_β₀}(F) > h refutes it, whatever way h was computed. This module builds near-optimal F
and returns P_{μ_β₀}(F), rounded down: a *lower enclosure* of the truth. It shares no code with the package; of a family
it reads only which transformation it is, its laws' names and numbers, and the image's size.

Two kinds of classifier are used.

* **Cells.** Each independent coordinate is cut into cells whose masses under both measures come from cumulative
  distribution functions; F is a set of cells. Merging cells gives another, coarser set of classifiers, so products of
  many coordinates are merged as needed. The only error is rounding. Where an affine group stands beside other
  coordinates, its cells' masses are integrals of smooth functions; two rules' difference over-estimates their error.
* **Level sets in one inner coordinate**, for the affine groups c·x + b and c·x^g and for products of two coordinates:
  the inner probabilities are closed forms, the outer integral is adaptive. Its error is over-estimated by the sum of
  the differences between every panel's value and that of its quarters, and subtracted.

Between two classifiers on either side of 1/2 a coin is tossed, which is a classifier too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc, log_ndtr, ndtr, ndtri

Array = NDArray[np.float64]

#: Subtracted from both probabilities for the rounding of sums of up to a few ten thousand masses.
ROUNDING = 2e-12

# --------------------------------------------------------------------------------------------- laws in standard form


@dataclass(frozen=True)
class Standard:
    """A law without units: X = origin + unit·Y with Y of this law (log-normal: shape is the scale of log Y)."""

    kind: str
    shape: float = 0.0

    @property
    def low(self) -> float:
        return -math.inf if self.kind == "Normal" else 0.0

    @property
    def high(self) -> float:
        return 1.0 if self.kind == "Uniform" else math.inf

    def cdf(self, y: Array) -> Array:
        return self._tails(y)[0]

    def survival(self, y: Array) -> Array:
        return self._tails(y)[1]

    def _tails(self, y: Array) -> tuple[Array, Array]:
        if self.kind == "Normal":
            return ndtr(y), ndtr(-y)
        y = np.maximum(y, 0.0)
        if self.kind == "Uniform":
            y = np.minimum(y, 1.0)
            return y, 1 - y
        if self.kind == "Exponential":
            return -np.expm1(-y), np.exp(-y)
        if self.kind == "Rayleigh":
            return -np.expm1(-0.5 * y * y), np.exp(-0.5 * y * y)
        if self.kind == "HalfNormal":
            tail = erfc(y / math.sqrt(2))
            return 1 - tail, tail
        with np.errstate(divide="ignore"):
            z = np.log(y) / self.shape
        return ndtr(z), ndtr(-z)

    def log_density(self, y: Array) -> Array:
        inside = (y >= self.low) & (y <= self.high)
        v = np.where(inside, y, 0.5)
        with np.errstate(divide="ignore"):
            if self.kind == "Normal":
                value = -0.5 * v * v - 0.5 * math.log(2 * math.pi)
            elif self.kind == "Uniform":
                value = np.zeros_like(v)
            elif self.kind == "Exponential":
                value = -v
            elif self.kind == "Rayleigh":
                value = np.log(v) - 0.5 * v * v
            elif self.kind == "HalfNormal":
                value = -0.5 * v * v + 0.5 * math.log(2 / math.pi)
            else:
                log = np.log(np.where(v > 0, v, 1.0))
                value = -0.5 * (log / self.shape) ** 2 - log - math.log(self.shape * math.sqrt(2 * math.pi))
                value = np.where(v > 0, value, -math.inf)
        return np.where(inside, value, -math.inf)

    def at_score(self, z: Array) -> Array:
        """The quantile at probability Φ(z): only where cells are cut, so its precision does not matter."""
        if self.kind == "Normal":
            return z
        if self.kind == "Uniform":
            return ndtr(z)
        if self.kind == "Exponential":
            return -log_ndtr(-z)
        if self.kind == "Rayleigh":
            return np.sqrt(-2 * log_ndtr(-z))
        if self.kind == "HalfNormal":
            return -ndtri(np.clip(0.5 * ndtr(-z), 1e-300, 0.5))
        return np.exp(self.shape * z)

    def masses(self, edges: Array) -> Array:
        below, above = self._tails(edges)
        return np.where(below[..., :-1] < 0.5, np.diff(below, axis=-1), -np.diff(above, axis=-1))


def _standard(law: Any) -> tuple[Standard, float, float]:
    """A law as (standard law, origin, unit)."""
    kind, v = type(law).__name__, law.values
    if kind == "Normal":
        return Standard(kind), v["loc"], v["scale"]
    if kind == "Uniform":
        return Standard(kind), v["low"], v["high"] - v["low"]
    if kind == "Exponential":
        return Standard(kind), 0.0, 1 / v["rate"]
    if kind == "LogNormal":
        return Standard(kind, v["scale"]), 0.0, math.exp(v["loc"])
    if kind in ("Rayleigh", "HalfNormal"):
        return Standard(kind), 0.0, v["scale"]
    raise NotImplementedError(kind)


# ----------------------------------------------------------------------------------------------- coordinates, atoms


@dataclass(frozen=True)
class Line:
    """One real coordinate: Y under β₀, a·Y + b under β."""

    law: Standard
    a: float
    b: float

    def edges(self, cells: int) -> Array:
        scores = self.law.at_score(np.linspace(-8.3, 8.3, max(cells // 2, 3)))
        ends = np.array([self.law.low, self.law.high])
        ends = np.concatenate([ends, self.a * ends + self.b])
        return np.unique(np.concatenate([scores, self.a * scores + self.b, ends, [-math.inf, math.inf]]))

    def masses(self, edges: Array) -> tuple[Array, Array]:
        return self.law.masses(edges), self.law.masses((edges - self.b) / self.a)


@dataclass(frozen=True)
class Pair:
    """The affine group: an outer coordinate, and an inner one that the outer draw α moves by rate·α.

    ``inner`` is a law whose coordinate is moved ("shift") or whose logarithm is ("log", with [low, high] the ends of a
    uniform law).
    """

    outer: Line
    draw: Callable[[Array], Array]  # the outer coordinate (of β's own draw, standard form) to α
    rate: float
    inner: Standard
    log: bool
    low: float = 0.0
    high: float = 1.0

    def shift(self, y: Array) -> Array:
        return self.rate * self.draw((y - self.outer.b) / self.outer.a)

    def kinks(self) -> Array:
        """Outer coordinates where the inner overlap of two uniform laws vanishes."""
        if self.inner.kind != "Uniform" or (self.log and self.low <= 0):
            return np.empty(0)
        if np.ptp(self.draw(np.array([0.25, 0.75]))) == 0:
            return np.empty(0)  # the same move everywhere
        largest = math.log(self.high / self.low) if self.log else 1.0
        # The draw is increasing: bisect for |rate|·draw = largest in the standard coordinate.
        low, high = -60.0, 60.0
        for _ in range(80):
            middle = 0.5 * (low + high)
            y = float(self.outer.law.at_score(np.array(middle)))
            if abs(self.rate) * float(self.draw(np.array(y))) < largest:
                low = middle
            else:
                high = middle
        return self.outer.a * self.outer.law.at_score(np.array([low])) + self.outer.b


Atoms = tuple[Array, Array]  # masses under β₀ and under β


def _losses(atoms: Atoms) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = np.log(atoms[1]) - np.log(atoms[0])
    return np.where(np.isnan(loss), -math.inf, loss)


def _merged_product(a: Atoms, b: Atoms, bins: int) -> Atoms:
    """The product of two coordinates; if it has many atoms, those of nearly equal loss become one.

    Merged atoms are a coarser choice of classifiers, so what they give is still a lower bound.
    """
    if len(a[0]) * len(b[0]) <= 8 * bins:
        return np.multiply.outer(a[0], b[0]).ravel(), np.multiply.outer(a[1], b[1]).ravel()
    (a_0, a_1), (b_0, b_1) = both = [(m_0[keep], m_1[keep]) for m_0, m_1 in (a, b) for keep in [(m_0 > 0) & (m_1 > 0)]]
    # What one measure has alone, in either coordinate.
    alone = [float(a[i].sum() * b[i].sum() - both[0][i].sum() * both[1][i].sum()) for i in (0, 1)]
    loss = np.add.outer(_losses((a_0, a_1)), _losses((b_0, b_1))).ravel()
    m_0, m_1 = np.multiply.outer(a_0, b_0).ravel(), np.multiply.outer(a_1, b_1).ravel()
    if len(loss):
        lowest = loss.min()
        fine = 65536
        index = ((loss - lowest) * ((fine - 1) / max(loss.max() - lowest, 1e-300))).astype(np.int64)
        m_0, m_1 = np.bincount(index, m_0, fine), np.bincount(index, m_1, fine)
        # The far tails of both measures become one bin each, and what lies between gets bins of equal width.
        weight = np.cumsum(m_0 + m_1)
        first, last = np.searchsorted(weight, [1e-11 * weight[-1], (1 - 1e-11) * weight[-1]])
        coarse = 1 + np.clip((np.arange(fine) - first) * bins // max(last - first + 1, 1), -1, bins)
        m_0, m_1 = np.bincount(coarse, m_0), np.bincount(coarse, m_1)
    return np.concatenate([[max(alone[0], 0.0), 0.0], m_0]), np.concatenate([[0.0, max(alone[1], 0.0)], m_1])


def _cycle(law: Any, size: int, shift: int) -> Atoms:
    """round(α) mod size and its shift: a finite distribution."""
    if type(law).__name__ == "UniformCyclic":
        return np.full(size, 1 / size), np.full(size, 1 / size)
    standard, origin, unit = _standard(law)
    ends = standard.at_score(np.array([-8.3, 8.3])) * unit + origin
    first = math.floor((ends[0] if math.isfinite(ends[0]) else origin) - 1) // size
    last = math.floor(ends[1] + 1) // size + 1
    if (last - first) * size > 5_000_000:
        raise NotImplementedError("too many turns of the cycle")
    edges = (np.arange(first * size, last * size + 1) - 0.5 - origin) / unit
    edges[0], edges[-1] = -math.inf, math.inf
    mass = standard.masses(edges).reshape(-1, size).sum(axis=0)
    return mass, np.roll(mass, shift)


# ------------------------------------------------------------------------------------------------------ Neyman–Pearson


@dataclass(frozen=True)
class Enclosure:
    """``lower`` is certain; ``upper`` is an estimate: lower plus three times what the last refinement gained."""

    lower: float
    upper: float


def _best_of_atoms(atoms: Atoms, slack: float) -> tuple[float, float]:
    """The best classifier on atoms: (its probability under β₀, the loss at its threshold)."""
    m_0, m_1 = atoms
    loss = _losses(atoms)
    order = np.argsort(loss, kind="stable")
    m_0, m_1, loss = m_0[order], m_1[order], loss[order]
    c_0, c_1 = np.cumsum(m_0), np.cumsum(m_1)
    level = 0.5 - slack
    i = int(np.searchsorted(c_1, level, side="right"))
    if i == len(c_1):
        return min(1.0, c_0[-1]) - slack, math.inf
    before_0, before_1 = (c_0[i - 1], c_1[i - 1]) if i else (0.0, 0.0)
    share = (level - before_1) / m_1[i]
    return min(1.0, before_0 + share * m_0[i]) - slack, float(loss[i])


def _mixed(low: tuple[float, float], high: tuple[float, float], level: float) -> float:
    """P₀ of the coin between two classifiers (P₀, P_β) on either side of ``level``."""
    share = (level - low[1]) / (high[1] - low[1]) if high[1] > low[1] else 0.0
    return low[0] + share * (high[0] - low[0])


def _bisect(profile: Callable[[float], tuple[float, float]], slack: float, steps: int = 60) -> float:
    """sup of P₀ over thresholds and coins between two of them."""
    level = 0.5 - slack
    low, high = -1.0, 1.0
    at_low, at_high = profile(low), profile(high)
    while at_low[1] > level and low > -1e5:
        low, high, at_high = 4 * low, low, at_low
        at_low = profile(low)
    while at_high[1] <= level and high < 1e5:
        high, low, at_low = 4 * high, high, at_high
        at_high = profile(high)
    if at_high[1] <= level:
        return min(1.0, at_high[0]) - slack
    if at_low[1] > level:
        return max(0.0, at_low[0] * level / at_low[1]) - slack
    for _ in range(steps):
        if at_high[1] - at_low[1] < 1e-8 or high - low < 1e-13 * max(1.0, abs(low)):
            break
        middle = 0.5 * (low + high)
        at_middle = profile(middle)
        if at_middle[1] > level:
            high, at_high = middle, at_middle
        else:
            low, at_low = middle, at_middle
    return min(1.0, _mixed(at_low, at_high, level)) - slack


def _with_normal(rest: Atoms, delta: float, slack: float) -> float:
    """The best classifier on atoms beside a normal coordinate that moves by delta standard deviations."""
    m_0, m_1 = rest
    loss = _losses(rest)

    def profile(t: float) -> tuple[float, float]:
        x = (t - loss) / delta
        return float(m_0 @ ndtr(x + delta / 2)), float(m_1 @ ndtr(x - delta / 2))

    return _bisect(profile, slack)


def _with_fine(rest: Atoms, fine: Atoms, slack: float) -> float:
    """The best classifier on a product of atoms, without forming the product."""
    m_0, m_1 = rest
    loss = _losses(rest)
    fine_loss = _losses(fine)
    order = np.argsort(fine_loss, kind="stable")
    sorted_loss = fine_loss[order]
    c_0 = np.concatenate([[0.0], np.cumsum(fine[0][order])])
    c_1 = np.concatenate([[0.0], np.cumsum(fine[1][order])])

    def profile(t: float) -> tuple[float, float]:
        index = np.searchsorted(sorted_loss, t - loss, side="right")
        return float(m_0 @ c_0[index]), float(m_1 @ c_1[index])

    return _bisect(profile, slack)


# ------------------------------------------------------------------------------------------------- one real coordinate


def _line(line: Line, cells: int) -> float:
    edges = line.edges(cells)
    for _ in range(3):
        atoms = line.masses(edges)
        best, t = _best_of_atoms(atoms, ROUNDING)
        loss = _losses(atoms)
        # Where the loss passes the threshold, cut again: only there can a finer classifier do better.
        near = np.concatenate([[loss[0]], loss, [loss[-1]]])
        crossing = (np.minimum(near[:-2], near[2:]) <= t) & (np.maximum(near[:-2], near[2:]) >= t)
        crossing &= np.isfinite(edges[:-1]) & np.isfinite(edges[1:])
        if not crossing.any() or crossing.sum() > 200:
            break
        left, right = edges[:-1][crossing], edges[1:][crossing]
        inner = left + np.linspace(0, 1, 41)[1:-1, None] * (right - left)
        edges = np.unique(np.concatenate([edges, inner.ravel()]))
    return max(best, _best_of_atoms(line.masses(edges), ROUNDING)[0])


# ----------------------------------------------------------------------------- the affine group by adaptive quadrature


def _below_rayleigh(s: Array, d: Array) -> Array:
    """v with log(v / (v + d)) + d v + d²/2 = s, for d > 0 (Newton in log v, kept inside a bracket)."""
    finite = np.isfinite(s)
    goal = np.where(finite, s, 0.0) - 0.5 * d * d
    # d v > goal always; and v / (v + d) < exp(goal) where that says something.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        low = np.where(goal > 0, np.log(goal / d), -745.0)
        high = np.where(goal < 0, np.log(d) + goal - np.log(-np.expm1(goal)), 60.0)
    low, high = np.clip(low, -745.0, 60.0), np.clip(high, -745.0, 60.0)
    w = np.where(goal > 0, low, high)
    for _ in range(40):
        v = np.exp(w)
        value = w - np.log(v + d) + d * v - goal
        low, high = np.where(value < 0, w, low), np.where(value >= 0, w, high)
        new = w - value / (d / (v + d) + d * v)
        new = np.where((new > low) & (new < high), new, 0.5 * (low + high))
        settled = np.abs(new - w) <= 1e-14 * (1 + np.abs(w))
        w = new
        if settled.all():
            break
    return np.where(finite, np.exp(w), np.where(s > 0, math.inf, 0.0))


def _log_normal_loss(w: Array, d: Array, shape: float) -> tuple[Array, Array]:
    """log(p(v) / p(v + d)) for the log-normal density p at v = exp(w), and its slope in w."""
    v = np.exp(w)
    log, part = np.log(v + d), v / (v + d)
    return 0.5 * (log * log - w * w) / shape**2 + log - w, (log * part - w) / shape**2 + part - 1


@lru_cache(maxsize=64)
def _log_normal_peaks(shape: float) -> tuple[Array, Array]:
    """Where the loss peaks (log v), for a grid of log d."""
    grid = np.linspace(-40.0, 25.0, 8001)
    d, low, high = np.exp(grid), np.full_like(grid, -700.0), np.full_like(grid, 1 - shape**2)
    for _ in range(50):
        middle = 0.5 * (low + high)
        rising = _log_normal_loss(middle, d, shape)[1] > 0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    return grid, 0.5 * (low + high)


def _log_normal_roots(s: Array, d: Array, shape: float) -> tuple[Array, Array]:
    """v_1 <= v_2 outside of which log(p(v) / p(v + d)) <= s, for d > 0 and the log-normal density p.

    The ratio climbs from 0 to a single peak (the slope of log p falls, then rises) and sinks to 1 from above. Roots are
    looked for in log v, by Newton's method inside a bracket; where the peak is below s, both are at the peak.
    """
    where = s.shape
    s, d = s.ravel(), d.ravel()
    # Beyond twelve standard deviations there is no mass: v is a draw of one of the two laws.
    far = 12 * shape
    peak = np.clip(np.interp(np.log(d), *_log_normal_peaks(shape)), -far, far)
    above = _log_normal_loss(peak, d, shape)[0] > s
    first, second = np.exp(peak), np.where(above & (s <= 0), math.inf, np.exp(peak))
    for side, result, some in ((-1, first, np.flatnonzero(above)), (1, second, np.flatnonzero(above & (s > 0)))):
        beyond = _log_normal_loss(np.full(len(some), side * far), d[some], shape)[0] > s[some]
        result[some[beyond]] = math.exp(side * far)
        some = some[~beyond]
        goal, move, top = s[some], d[some], peak[some]
        end = np.full_like(top, side * far)
        left, right = (end, top) if side < 0 else (top, end)
        w = top + side * np.minimum(shape, 0.5 * np.abs(end - top))
        for _ in range(60):
            value, slope = _log_normal_loss(w, move, shape)
            below = value <= goal
            to_right = below if side < 0 else ~below
            left, right = np.where(to_right, w, left), np.where(to_right, right, w)
            with np.errstate(divide="ignore", invalid="ignore"):
                # The right tail is nearly a power of v: a straight line between logarithms.
                gap = value - goal if side < 0 else value * np.log(np.maximum(value, 1e-300) / goal)
                new = w - gap / slope
            new = np.where((new > left) & (new < right), new, 0.5 * (left + right))
            open_ = np.abs(new - w) > 1e-13 * (1 + np.abs(w))
            w = new
            if not open_.all():
                result[some[~open_]] = np.exp(w[~open_])
                some, goal, move, w = some[open_], goal[open_], move[open_], w[open_]
                left, right = left[open_], right[open_]
                if not len(some):
                    break
        result[some] = np.exp(w)
    return first.reshape(where), second.reshape(where)


def _inner(pair: Pair, s: Array, d: Array, extra: float) -> tuple[Array, Array]:
    """P(inner loss <= s) under β₀ and β when the inner coordinate moves by d (``extra``: normal coordinates beside)."""
    kind, law = pair.inner.kind, pair.inner
    e = np.maximum(np.abs(d), 1e-300)
    up = d > 0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if kind == "Normal":
            e = np.hypot(e, extra)
            return ndtr(s / e + e / 2), ndtr(s / e - e / 2)
        if pair.log and kind == "Uniform":
            stretch = np.exp(d)
            overlap = np.minimum(pair.high, pair.high * stretch) - np.maximum(pair.low, pair.low * stretch)
            overlap = np.maximum(overlap, 0.0) / (pair.high - pair.low)
            within = s >= -d
            return 1 - overlap + overlap * within, overlap / stretch * within
        if pair.log:
            # Y^power / power is exponential (half-normal: a square of a normal): the loss is linear in it.
            power = 1.0 if kind == "Exponential" else 2.0
            times = {"Exponential": 1.0, "Rayleigh": 2.0, "HalfNormal": 1.0}[kind]
            gain = -np.expm1(-power * d)  # 1 - exp(-power d)
            level = np.maximum((s + times * d) / gain, 0.0)  # loss = -times d + gain Y^power / power
            level = np.where(np.isnan(level), 0.0, level)
            y = level if power == 1 else np.sqrt(2 * level)
            moved = y * np.exp(-d)
            return (
                np.where(up, law.cdf(y), law.survival(y)) * np.where(up, (s + times * d) >= 0, 1.0),
                np.where(up, law.cdf(moved), law.survival(moved)) * np.where(up, (s + times * d) >= 0, 1.0),
            )
        if kind == "Uniform":
            overlap = np.maximum(1 - e, 0.0)
            return 1 - overlap + overlap * (s >= 0), overlap * (s >= 0)
        if kind == "Exponential":
            here = np.where(up, s >= e, s >= -e)
            kept = np.exp(-e)
            return np.where(up, np.where(here, 1.0, -np.expm1(-e)), here), np.where(up, 1.0, kept) * here
        if kind == "HalfNormal":
            y = np.where(up, np.maximum(s / e + e / 2, e), np.maximum(-(s / e + e / 2), 0.0))
            return np.where(up, law.cdf(y), law.survival(y)), np.where(up, law.cdf(y - e), law.survival(y + e))
        if kind == "Rayleigh":
            v = _below_rayleigh(np.where(up, s, -s), e)
            return np.where(up, law.cdf(v + e), law.survival(v)), np.where(up, law.cdf(v), law.survival(v + e))
        if kind == "LogNormal":
            first, second = _log_normal_roots(np.where(up, s, -s), e, law.shape)
            # β's own draw is v where it moves up; where it moves down the roles are exchanged and loss changes sign.
            ends = np.stack([first, second], -1)
            far, near = law.masses(ends + e[..., None])[..., 0], law.masses(ends)[..., 0]
            return np.where(up, 1 - far, near), np.where(up, 1 - near, far)
    raise NotImplementedError(kind)


def _lobatto(n: int) -> tuple[Array, Array]:
    """Gauss–Lobatto nodes and weights on [-1, 1], both ends moved inwards by 1e-11."""
    last = np.polynomial.legendre.Legendre.basis(n - 1)
    nodes = np.concatenate([[-1.0], last.deriv().roots(), [1.0]])
    weights = 2 / (n * (n - 1) * last(nodes) ** 2)
    # At the very end of a panel the integrand may take its value of the other side of a jump.
    return np.clip(nodes, -1 + 1e-11, 1 - 1e-11), weights


# With nodes at the ends: a jump beyond the outermost node of an open rule moves neither a panel nor its parts.
_NODES, _WEIGHTS = _lobatto(13)
_SPLIT = 4
_MOST = 3000  # panels: more than that are noise, which the error then holds


def _quadrature(pair: Pair, extra: float, panels: Array, t: float, tolerance: float) -> tuple[float, float, float]:
    """(P₀, P_β, error) of {loss <= t}; tolerance inf: the panels as they are."""
    outer = pair.outer

    def integrate(left: Array, right: Array) -> Array:
        half = 0.5 * (right - left)
        y = (0.5 * (left + right))[:, None] + half[:, None] * _NODES
        l_0 = outer.law.log_density(y)
        l_1 = outer.law.log_density((y - outer.b) / outer.a) - math.log(outer.a)
        with np.errstate(invalid="ignore"):
            s = t - (l_1 - l_0)
        s = np.where(np.isnan(s), 0.0, s)  # neither measure has mass there
        d = np.where(np.isfinite(l_1), pair.shift(y), pair.rate)
        g_0, g_1 = _inner(pair, s, d, extra)
        g_0 = np.where(s == math.inf, 1.0, g_0)
        g_0, g_1 = np.where(s == -math.inf, 0.0, g_0), np.where(s == -math.inf, 0.0, g_1)
        return half * np.stack([(np.exp(l_0) * g_0) @ _WEIGHTS, (np.exp(l_1) * g_1) @ _WEIGHTS])

    left, right = panels[:-1], panels[1:]
    whole = integrate(left, right)
    if tolerance == math.inf:
        total = whole.sum(axis=1)
        return float(total[0]), float(total[1]), 0.0
    total, error = np.zeros(2), 0.0
    for _ in range(40):
        # Quarters: a jump is enclosed to rounding after some twenty rounds.
        cuts = left + np.linspace(0, 1, _SPLIT + 1)[:, None] * (right - left)
        parts = integrate(cuts[:-1].ravel(), cuts[1:].ravel()).reshape(2, _SPLIT, -1)
        better = parts.sum(axis=1)
        gap = np.abs(better - whole).max(axis=0)
        more = (gap > tolerance) & (cuts[1] > left) & (right > cuts[-2])
        total += better[:, ~more].sum(axis=1)
        error += float(gap[~more].sum())
        if not more.any() or more.sum() > _MOST:
            total += better[:, more].sum(axis=1)
            error += float(gap[more].sum())
            return float(total[0]), float(total[1]), error
        left, right = cuts[:-1, more].ravel(), cuts[1:, more].ravel()
        whole = parts[:, :, more].reshape(2, -1)
    total += whole.sum(axis=1)
    return float(total[0]), float(total[1]), error + float(whole.max(axis=0).sum())


def _pair(pair: Pair, extra: float) -> Enclosure:
    """The affine group alone, or with normal coordinates beside a normal inner one."""
    edges = np.unique(np.concatenate([pair.outer.edges(48), pair.kinks()]))
    panels = edges[np.isfinite(edges)]
    outside = 2e-12  # mass beyond a score of 8.3, and jumps within 1e-11 of a panel's ends

    def rough(t: float) -> tuple[float, float]:
        p_0, p_1, _ = _quadrature(pair, extra, panels, t, math.inf)
        return p_0, p_1

    def fine(t: float) -> tuple[float, float, float]:
        return _quadrature(pair, extra, panels, t, 1e-13)

    # A first threshold from the panels as they are, then adaptive values on both sides of 1/2.
    low, high = -1.0, 1.0
    while rough(low)[1] > 0.5 and low > -1e5:
        low, high = 4 * low, low
    while rough(high)[1] <= 0.5 and high < 1e5:
        low, high = high, 4 * high
    while high - low > 1e-4 * max(1.0, abs(low)):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if rough(middle)[1] > 0.5 else (middle, high)
    width = high - low
    at_low, at_high = fine(low), fine(high)
    while at_low[1] > 0.5 and width < 1e6:
        high, at_high, width = low, at_low, 16 * width
        low -= width
        at_low = fine(low)
    while at_high[1] <= 0.5 and width < 1e6:
        low, at_low, width = high, at_high, 16 * width
        high += width
        at_high = fine(high)
    # Regula falsi and bisection in turn.
    for i in range(60):
        rise = at_high[1] - at_low[1]
        if rise < 1e-6 or high - low < 1e-12 * max(1.0, abs(low)):
            break
        share = min(max((0.5 - at_low[1]) / rise, 0.02), 0.98) if i % 3 < 2 else 0.5
        # A little towards the far end, so that both ends move.
        share += 0.02 * (0.5 - share)
        middle = low + share * (high - low)
        at = fine(middle)
        if at[1] > 0.5:
            high, at_high = middle, at
        else:
            low, at_low = middle, at
    error = max(at_low[2], at_high[2]) + outside + ROUNDING
    level = 0.5 - error
    if at_high[1] <= 0.5:
        best = at_high[0] * min(1.0, level / at_high[1] if at_high[1] > 0 else 1.0)
    elif at_low[1] <= level:
        best = _mixed(at_low[:2], at_high[:2], level)
    else:
        best = at_low[0] * max(0.0, level / at_low[1])
    # The slope of the trade-off curve is exp(-t): an error of P_β shows in P₀ this many times larger.
    slope = math.exp(min(50.0, max(0.0, -low)))
    return Enclosure(min(1.0, best) - error, min(1.0, best + error * (1 + 4 * slope) + 1e-9))


def _pair_atoms(pair: Pair, outer_cells: int, inner_cells: int) -> tuple[Atoms, float]:
    """The affine group cut into cells: (atoms, error of their masses).

    Inner cells are fixed in the coordinate of the law with the smaller support, so that within an outer cell the masses
    under the other measure are smooth integrals.
    """
    outer, law = pair.outer, pair.inner
    edges = np.unique(np.concatenate([outer.edges(outer_cells), pair.kinks()]))
    edges = edges[np.isfinite(edges)]
    left, right = edges[:-1], edges[1:]
    o_0, o_1 = outer.masses(edges)
    up = pair.rate > 0
    if pair.inner.kind == "Uniform" or (not pair.log and pair.inner.kind == "Exponential"):
        cuts = np.empty(0)  # the loss is constant on the overlap
    else:
        cuts = law.at_score(np.linspace(-8.3, 8.3, inner_cells))
        cuts = cuts[cuts > law.low]

    def conditional(y: Array) -> tuple[Array, Array]:
        """Inner masses (…, cells) under β₀ and β given the outer coordinate y."""
        d = pair.shift(y)[..., None]
        zero, one = np.zeros_like(d), np.ones_like(d)
        if law.kind == "Uniform":
            if pair.log:
                stretch = np.exp(d)
                overlap = np.minimum(pair.high, pair.high * stretch) - np.maximum(pair.low, pair.low * stretch)
                overlap = np.maximum(overlap, 0.0) / (pair.high - pair.low)
                other = overlap / stretch
            else:
                overlap = other = np.maximum(1 - np.abs(d), 0.0)
            return np.concatenate([1 - overlap, overlap, zero], -1), np.concatenate([zero, other, 1 - other], -1)
        if pair.log or law.kind == "Normal":
            grid = np.concatenate([[law.low], cuts, [math.inf]])
            moved = grid * np.exp(d) if pair.log else grid + d  # cut where β's own draw is at the grid
            return law.masses(moved), np.broadcast_to(law.masses(grid), moved[..., 1:].shape)
        grid = np.concatenate([[0.0], cuts, [math.inf]])
        size = np.abs(d)
        fixed = np.broadcast_to(law.masses(grid), (*d.shape[:-1], len(grid) - 1))
        moved = law.masses(grid + size)
        alone = law.cdf(size)
        if up:  # under β the inner law starts at d > 0
            return np.concatenate([alone, moved], -1), np.concatenate([zero * one, fixed], -1)
        return np.concatenate([zero, fixed], -1), np.concatenate([alone, moved], -1)

    def integrate(nodes: int, which: slice = slice(None)) -> tuple[Array, Array]:
        x, w = np.polynomial.legendre.leggauss(nodes)
        half = 0.5 * (right - left)
        y = (0.5 * (left + right))[:, None] + half[:, None] * x
        l_0 = outer.law.log_density(y)
        l_1 = outer.law.log_density((y - outer.b) / outer.a) - math.log(outer.a)
        i_0, i_1 = conditional(np.where(np.isfinite(l_1), y, outer.a * outer.law.at_score(np.array(0.0)) + outer.b))
        w_0, w_1 = half[:, None] * w * np.exp(l_0), half[:, None] * w * np.exp(l_1)
        # Outside β's outer support everything is lost under β: what the inner cells are called does not matter.
        return np.einsum("in,inj->ij", w_0, i_0), np.einsum("in,inj->ij", w_1, i_1)

    m_0, m_1 = integrate(6)
    r_0, r_1 = integrate(5)
    # A classifier takes a few runs of inner cells in each outer cell; a run's error is that of its two ends.
    ends = np.maximum(np.abs(np.cumsum(m_0 - r_0, 1)).max(1), np.abs(np.cumsum(m_1 - r_1, 1)).max(1))
    rows = np.maximum(np.abs(m_0.sum(1) - o_0), np.abs(m_1.sum(1) - o_1))
    return (m_0.ravel(), m_1.ravel()), float(8 * ends.sum() + rows.sum())


# ----------------------------------------------------------------------------------------------------------- families


@dataclass
class _Parts:
    lines: list[Line]
    atoms: list[Atoms]
    pair: Pair | None
    normal: float  # squared size of all normal shifts together


def _shift_or_scale(law: Any, scale: float, shift: float, parts: _Parts) -> None:
    """The coordinate scale·α + shift of a law."""
    standard, origin, unit = _standard(law)
    if standard.kind == "LogNormal" and shift == 0:
        parts.normal += (math.log(scale) / standard.shape) ** 2
        return
    b = (shift + (scale - 1) * origin) / unit
    if scale == 1 and b == 0:
        return
    if standard.kind == "Normal" and scale == 1:
        parts.normal += b * b
    else:
        parts.lines.append(Line(standard, scale, b))


def _affine(outer_law: Any, scale: float, inner_law: Any, move: float, log: bool, parts: _Parts) -> None:
    """(α_o·scale, α_i moved by α_o·move): c·x + b, and in logarithms c·x^g."""
    if move == 0:
        _shift_or_scale(outer_law, scale, 0.0, parts)
        return
    standard, origin, unit = _standard(outer_law)
    if standard.kind == "LogNormal":
        location, width = outer_law.values["loc"], standard.shape
        outer = Line(Standard("Normal"), 1.0, math.log(scale) / width)

        def draw(z: Array) -> Array:
            return np.exp(np.clip(location + width * z, -700, 700))
    else:
        outer = Line(standard, scale, (scale - 1) * origin / unit)

        def draw(z: Array) -> Array:
            return origin + unit * z

    inner, inner_origin, inner_unit = _standard(inner_law)
    if not log:
        parts.pair = Pair(outer, draw, move / inner_unit, inner, False)
    elif inner.kind == "LogNormal":
        parts.pair = Pair(outer, draw, move / inner.shape, Standard("Normal"), False)
    else:
        parts.pair = Pair(outer, draw, move, inner, True, inner_origin, inner_origin + inner_unit)


def _decompose(family: Any, beta: Mapping[str, float]) -> _Parts:
    parts = _Parts([], [], None, 0.0)

    def visit(transform: Any) -> None:
        name = next(c.__name__ for c in type(transform).__mro__ if c.__name__ in _LEAVES or c.__name__ == "Composition")
        if name == "Composition":
            for part in transform.parts:
                visit(part)
            return
        laws = family.laws
        if name == "Translation":
            for axis, index in (("tx", 1), ("ty", 0)):
                shift = beta.get(axis, 0.0)
                if family.image_size is None:
                    _shift_or_scale(laws[axis], 1.0, shift, parts)
                else:
                    parts.atoms.append(_cycle(laws[axis], family.image_size[index], round(shift)))
        elif name == "GaussianBlur":
            _shift_or_scale(laws["blur"], 1.0, beta.get("blur", 0.0), parts)
        elif name == "Brightness":
            _shift_or_scale(laws["brightness"], 1.0, beta.get("brightness", 0.0), parts)
        elif name == "Contrast":
            _shift_or_scale(laws["contrast"], beta.get("contrast", 1.0), 0.0, parts)
        elif name == "Gamma":
            _shift_or_scale(laws["gamma"], beta.get("gamma", 1.0), 0.0, parts)
        elif name == "GammaContrast":
            move = math.log(beta.get("contrast", 1.0))
            _affine(laws["gamma"], beta.get("gamma", 1.0), laws["contrast"], move, True, parts)
        elif transform.order == "contrast_first":
            move = beta.get("brightness", 0.0)
            _affine(laws["contrast"], beta.get("contrast", 1.0), laws["brightness"], move, False, parts)
        else:
            contrast = beta.get("contrast", 1.0)
            _shift_or_scale(laws["contrast"], contrast, 0.0, parts)
            _shift_or_scale(laws["brightness"], 1 / contrast, beta.get("brightness", 0.0), parts)

    visit(family.transform)
    return parts


_LEAVES = {"Translation", "GaussianBlur", "Brightness", "Contrast", "Gamma", "GammaContrast", "ContrastBrightness"}


def _as_pair(lines: list[Line], extra: float) -> Pair | None:
    """Two independent coordinates as a pair whose inner coordinate moves by the same amount whatever the outer one.

    None where no coordinate has closed forms for the level sets of its loss.
    """
    if len(lines) + bool(extra) != 2:
        return None

    def always(y: Array) -> Array:
        return np.ones_like(y)

    if extra:
        return Pair(lines[0], always, extra, Standard("Normal"), False)
    for outer, inner in (lines, lines[::-1]):
        if inner.a == 1:
            return Pair(outer, always, inner.b, inner.law, False)
        if inner.a != 1 and inner.b == 0 and inner.law.kind in ("Exponential", "Rayleigh", "HalfNormal"):
            return Pair(outer, always, math.log(inner.a), inner.law, True)
        if inner.a != 1 and inner.b / (inner.a - 1) >= 0 and inner.law.kind == "Uniform":
            low = inner.b / (inner.a - 1)
            return Pair(outer, always, math.log(inner.a), inner.law, True, low, low + 1)
    return None


def enclosure(family: Any, beta: Mapping[str, float], cells: int = 1000, estimate: bool = True) -> Enclosure:
    """Lower enclosure, and an upper estimate, of the required probability at one parameter.

    Args:
        family: a family of built-in transformations, or a composition of them.
        beta: parameters; those left out are at the identity. On a torus whole shifts.
        cells: cells a coordinate where several are multiplied.
        estimate: with False the upper estimate may be missing (1), which saves time.
    """
    parts = _decompose(family, beta)
    lines, pair = parts.lines, parts.pair
    extra = math.sqrt(parts.normal)
    if pair is not None and pair.inner.kind == "Normal" and not pair.log and not lines and not parts.atoms:
        return _pair(pair, extra)
    if pair is not None and not lines and not parts.atoms and not extra:
        return _pair(pair, 0.0)
    if pair is None and not parts.atoms and not extra and len(lines) == 1:
        lower = _line(lines[0], 4000)
        return Enclosure(lower, min(1.0, lower + 1e-9 + 1e-3 * max(0.0, lower - _line(lines[0], 1000))))
    if pair is None and not parts.atoms and (two := _as_pair(lines, extra)) is not None:
        return _pair(two, 0.0)
    if pair is None and not lines and not parts.atoms:
        lower = float(ndtr(extra)) - ROUNDING
        return Enclosure(max(0.5, lower), min(1.0, lower + 3 * ROUNDING))
    fine = _products(parts, cells)
    if not estimate:
        return Enclosure(max(0.5, fine), 1.0)
    coarse = _products(parts, cells // 2)
    return Enclosure(max(0.5, fine), min(1.0, fine + 1e-9 + 3 * max(0.0, fine - coarse)))


def _products(parts: _Parts, cells: int) -> float:
    slack = ROUNDING
    rest: Atoms = (np.ones(1), np.ones(1))
    fine: Atoms | None = None
    extra = math.sqrt(parts.normal)
    pending = list(parts.atoms)
    lines = list(parts.lines)
    if parts.pair is not None:
        alone = not lines and not pending and not extra
        size = cells // 2 if alone else cells // 4
        fine, error = _pair_atoms(parts.pair, size, size)
        slack += error
        keep = (fine[0] > 0) | (fine[1] > 0)
        fine = fine[0][keep], fine[1][keep]
    elif lines and not extra:
        line = lines.pop()
        fine = line.masses(line.edges(20 * cells))
    for line in lines:
        pending.append(line.masses(line.edges(cells)))
    if extra and fine is not None:
        line = Line(Standard("Normal"), 1.0, extra)
        pending.append(line.masses(line.edges(2 * cells)))
        extra = 0.0
    for atoms in sorted(pending, key=lambda a: len(a[0])):
        rest = _merged_product(rest, atoms, 3 * cells // 2)
    if extra:
        return _with_normal(rest, extra, slack)
    if fine is not None:
        return _with_fine(rest, fine, slack)
    return _best_of_atoms(rest, slack)[0]


# ---------------------------------------------------------------------- direct densities, for checks by sampling only


def sample_losses(family: Any, beta: Mapping[str, float], n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Loss L(θ) for n draws θ under β₀ and n under β, by the formulas for γ and scipy's own densities (plane only)."""
    from scipy import stats

    def law(name: str) -> Any:
        v, kind = family.laws[name].values, type(family.laws[name]).__name__
        return {
            "Normal": lambda: stats.norm(v["loc"], v["scale"]),
            "LogNormal": lambda: stats.lognorm(v["scale"], scale=math.exp(v["loc"])),
            "Rayleigh": lambda: stats.rayleigh(scale=v["scale"]),
            "Exponential": lambda: stats.expon(scale=1 / v["rate"]),
            "HalfNormal": lambda: stats.halfnorm(scale=v["scale"]),
            "Uniform": lambda: stats.uniform(v["low"], v["high"] - v["low"]),
        }[kind]()

    laws = {name: law(name) for name in family.laws}
    order = _order(family.transform)
    b = {name: beta.get(name, 1.0 if name in ("contrast", "gamma") else 0.0) for name in laws}
    groups = "gamma" in laws and "contrast" in laws, "contrast" in laws and "brightness" in laws

    def gamma(a: dict[str, Array]) -> dict[str, Array]:
        out = {n_: a[n_] * b[n_] if n_ in ("contrast", "gamma") else a[n_] + b[n_] for n_ in laws}
        if groups[0]:
            out["contrast"] = a["contrast"] * b["contrast"] ** a["gamma"]
        if groups[1] and order == "contrast_first":
            out["brightness"] = a["contrast"] * b["brightness"] + a["brightness"]
        if groups[1] and order == "brightness_first":
            out["brightness"] = b["brightness"] + a["brightness"] / b["contrast"]
        return out

    def back(theta: dict[str, Array]) -> tuple[dict[str, Array], Array]:
        """α with γ(α, β) = θ, and the logarithm of |dα/dθ|."""
        out = {n_: theta[n_] / b[n_] if n_ in ("contrast", "gamma") else theta[n_] - b[n_] for n_ in laws}
        jacobian = -sum(math.log(b[n_]) for n_ in laws if n_ in ("contrast", "gamma")) + np.zeros(n)
        if groups[0]:
            power = b["contrast"] ** out["gamma"]
            out["contrast"] = theta["contrast"] / power
            jacobian = -math.log(b["gamma"]) - np.log(power)
        if groups[1] and order == "contrast_first":
            out["brightness"] = theta["brightness"] - out["contrast"] * b["brightness"]
        if groups[1] and order == "brightness_first":
            out["brightness"] = (theta["brightness"] - b["brightness"]) * b["contrast"]
            jacobian = np.zeros(n)
        return out, jacobian

    def density(a: dict[str, Array]) -> Array:
        return sum((laws[n_].logpdf(a[n_]) for n_ in laws), np.zeros(n))

    def loss(theta: dict[str, Array]) -> Array:
        with np.errstate(all="ignore"):
            alpha, jacobian = back(theta)
            return density(alpha) + jacobian - density(theta)

    draws = [{name: laws[name].rvs(n, random_state=rng) for name in laws} for _ in range(2)]
    return loss(draws[0]), loss(gamma(draws[1]))


def _order(transform: Any) -> str | None:
    for part in getattr(transform, "parts", (transform,)):
        if hasattr(part, "order"):
            return str(part.order)
    return None
