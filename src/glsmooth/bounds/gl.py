"""General Lipschitz (Korzh et al.): how fast can a smoothed classifier change along a curve of parameters?

Along β(t) with velocity v a classifier at level h changes at a rate of at most

    w(h; β, v) = sup { ∫ q s dμ_β : ∫ q dμ_β = h, 0 <= q <= 1 },   s = ⟨∇_β log ρ(θ|β), v⟩,

the mean of the top h of the score (paper, eq. 9-11). The *ode form* integrates it; the *product form* first bounds
it by p(h) g(t) and compares ĝ = ∫ g dt with ξ(h) = ∫ dh / p(h) (Theorem 1, eq. 7-8).

For the built-in factors the law of the score is known, so w needs no samples: the score of each factor is cut into
cells whose masses and mean scores have closed forms, and each cell is moved to the two ends of its range, which can
only enlarge w (the top mean grows in the convex order); a score that is normal given an observed coordinate is
integrated over nodes of that coordinate. Integrals and maxima along the path are computed at two resolutions and
their difference is added on the safe side. That is no proof of what lies between nodes; values that are handed out as
certified are never below Neyman-Pearson's, which has one.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.integrate import simpson
from scipy.interpolate import CubicSpline
from scipy.special import ndtr

from glsmooth.bounds import neyman_pearson
from glsmooth.bounds.base import NotApplicable
from glsmooth.bounds.sums import convolve
from glsmooth.errors import UserError
from glsmooth.family.regions import Box, number
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import Law
from glsmooth.laws.arrays import on_array
from glsmooth.laws.checks import jump_of
from glsmooth.laws.immutable import FrozenMapping
from glsmooth.transforms.factors import PowerThenScale, Scale, ScaleThenShift, Shift, ShiftThenScale

__all__ = [
    "Curve",
    "Leg",
    "ProductForm",
    "Rate",
    "Scores",
    "least_value",
    "ode_at",
    "ode_form",
    "ode_of_rates",
    "path_rates",
    "polygon",
    "printed",
    "product_at",
    "product_form",
    "product_of_rates",
    "rate_of",
    "rates_of",
    "score_cells",
    "score_law",
    "straight_form",
    "straight_leg",
    "straight_rates",
]

#: Intervals of the path; half as many for the error estimate.
STEPS = 32
#: The same for ranking parameters against each other.
ROUGH_STEPS = 4
#: A user's curve is followed by at least and at most so many straight legs, each with so many intervals, and to this
#: share of its extent.
LEAST_LEGS, MOST_LEGS, LEG_STEPS = 16, 512, 4
FOLLOWED = 2e-3
#: Levels h at which w is tabulated, geometric from the smallest to 1/2.
LEVELS = np.geomspace(1e-6, 0.5, 2_400)
LEVELS.flags.writeable = False

_SQRT_2PI = math.sqrt(2 * math.pi)


def _read_only(*arrays: np.ndarray) -> None:
    """Arrays may come from a cache: nobody shall write to them."""
    for array in arrays:
        array.flags.writeable = False


@dataclass(frozen=True)
class Scores:
    """Law of a score: values s_i + sd_i·N(0, 1) with masses p_i; ``excess`` is a bound on a cut-off upper tail."""

    s: np.ndarray
    p: np.ndarray
    sd: np.ndarray
    excess: float = 0.0

    def __post_init__(self) -> None:
        _read_only(self.s, self.p, self.sd)


def _density(law: Law, x: np.ndarray) -> np.ndarray:
    density: np.ndarray = np.exp(on_array(law.log_prob, x))
    return density


def _refuse_jumps(name: str, law: Law, rescaled: bool) -> None:
    """A moved density must not jump: at a jump mass is gained that no score sees. Kinks do no harm."""
    fact, how, others = (
        ("rescales_smoothly", "rescaled", "LogNormal, Rayleigh")
        if rescaled
        else ("shifts_smoothly", "shifted", "Normal, Rayleigh, LogNormal")
    )
    if getattr(law, fact):
        return
    if law.cyclic:
        raise NotApplicable(f"GL has no form on the torus, and {law!r} (for {name}) none on the plane")
    jump = jump_of(law, rescaled)
    if jump is not None:
        raise NotApplicable(
            f"GL cannot use {law!r} for {name}: its density jumps at {jump:g}, and when it is {how} the score misses "
            f"the mass that the jump sweeps; use neyman_pearson, or {others}"
        )
    raise NotApplicable(
        f"GL cannot use {law!r} for {name}: it does not say that its density has no jumps that would move when it is "
        f"{how} ({fact}), though none was seen; if you can prove that, state {fact} = True and define slope in "
        f"{type(law).__name__}, or use neyman_pearson"
    )


def _refuse_unknown(name: str, law: Law, a: float, b: float) -> None:
    """The score of a shift at speed a and a rescaling at speed b is cut where it turns."""
    if law.score_turns(a, b) is None:
        known = "a shift and a rescaling" if a and b else "the score"
        raise NotApplicable(f"GL has no closed form for {known} of {law!r} ({name}){' at once' if a and b else ''}")


@lru_cache(maxsize=16)
def score_cells(law: Law, a: float, b: float, count: int = 1500) -> Scores:
    """Scores a·(-(log τ)′(α)) + b·(-1 - α (log τ)′(α)) for α ~ ``law``: a shift at speed a, a rescaling at speed b.

    They are derivatives of the density: over a cell [x, y] the first has the integral a (τ(x) - τ(y)), the second
    b (x τ(x) - y τ(y)). Critical points of the score are among the edges, so its range is that of the ends.
    """
    edges = on_array(law.icdf, ndtr(np.linspace(-7.9, 7.9, count)))
    critical = law.score_turns(a, b)
    assert critical is not None  # or the law was refused
    edges = np.unique(np.concatenate((edges, [x for x in critical if edges[0] < x < edges[-1]])))
    density = _density(law, edges)
    slope = on_array(law.slope, edges)
    s = -a * slope - b * (1 + edges * slope)
    below, above = on_array(law.cdf, edges), on_array(law.survival, edges)
    mass = np.where(below[1:] < 0.5, np.diff(below), -np.diff(above))
    flux = (a + b * edges) * density  # integral of the score from x to the upper end of the support
    moment = -np.diff(flux)
    # Tails: lower and upper ends; the score there lies between its value at the last edge and infinity of either sign.
    # Raising it to the edge's value, or counting its whole positive excess, can only enlarge w. Where the density does
    # not vanish at the end (exponential and half-normal laws, rescaled) the flux does.
    tails = (
        (float(below[0]), float(-flux[0]), float(s[0])),
        (float(above[-1]), float(flux[-1]), float(s[-1])),
    )
    excess = sum(abs(tail_moment - tail_mass * edge) for tail_mass, tail_moment, edge in tails)
    least, most = np.minimum(s[:-1], s[1:]), np.maximum(s[:-1], s[1:])
    width = np.maximum(most - least, 1e-300)
    upper = np.clip((moment - mass * least) / width, 0.0, mass)
    values = np.concatenate((least, most, [s[0], s[-1]]))
    masses = np.concatenate((mass - upper, upper, [tails[0][0], tails[1][0]]))
    # Rounding of the closed-form moments: let no cell's mean fall below its own.
    slack = float(np.maximum(moment - (mass - upper) * least - upper * most, 0.0).sum())
    return Scores(values, masses, np.zeros_like(values), excess + slack)


class _Nodes(NamedTuple):
    """Quadrature nodes of a law: points and masses (K,)."""

    at: np.ndarray
    mass: np.ndarray


def _density_nodes(law: Law, panels: int = 40, order: int = 8) -> _Nodes:
    """Gauss-Legendre nodes on panels between quantiles of ``law``: for estimates, no bound rests on them alone."""
    edges = on_array(law.icdf, ndtr(np.linspace(-7.9, 7.9, panels + 1)))
    edges = np.unique(np.concatenate((edges, [v for v in law.interval if math.isfinite(v)])))
    x, w = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges) / 2
    at = ((edges[:-1] + half)[:, None] + half[:, None] * x).ravel()
    mass = (half[:, None] * w).ravel() * np.exp(on_array(law.log_prob, at))
    return _Nodes(at[mass > 0], mass[mass > 0])


def _conditional(outer: Law, b: float, inner: Law, step: float, inner_scales: bool) -> Scores:
    """Score b·(-1 - α_o (log τ_o)′) + (α_o·step)·(score of the inner shift), normal given α_o."""
    nodes = _density_nodes(outer)
    alpha = nodes.at
    s = -b * (1 + alpha * on_array(outer.slope, alpha))
    scale = inner.gaussian_scale_of_log if inner_scales else inner.gaussian_scale
    if scale is not None:
        return Scores(s, nodes.mass, np.abs(alpha * step) / scale)
    unit = score_cells(inner, 0.0, 1.0, 300) if inner_scales else score_cells(inner, 1.0, 0.0, 300)
    # A negative speed turns the unit score over.
    values = (s[:, None] + (alpha * step)[:, None] * unit.s).ravel()
    return Scores(
        values,
        np.outer(nodes.mass, unit.p).ravel(),
        np.zeros(values.size),
        abs(step) * unit.excess * float(nodes.mass @ alpha),
    )


def score_law(family: SmoothedFamily, beta: Mapping[str, float], v: Mapping[str, float]) -> Scores:
    """Law of ⟨∇_β log ρ(θ|β), v⟩ under μ_β."""
    if family.transform.factors is None:  # no parts would mean a score of 0
        raise NotApplicable(
            f"{family.transform!r} declares no factors, so its scores have no closed form; "
            "glsmooth.bounds.autograd_gl estimates the same forms from samples"
        )
    variance = 0.0
    parts: list[Scores] = []

    def shift(name: str, a: float, b: float = 0.0) -> None:
        nonlocal variance
        law = family.laws[name]
        if a == 0 and b == 0:
            return
        if a:
            _refuse_jumps(name, law, rescaled=False)
        if b:
            _refuse_jumps(name, law, rescaled=True)
        if b == 0 and law.gaussian_scale is not None:
            variance += (a / law.gaussian_scale) ** 2
        elif a == 0 and law.gaussian_scale_of_log is not None:
            variance += (b / law.gaussian_scale_of_log) ** 2
        else:
            _refuse_unknown(name, law, a, b)
            parts.append(score_cells(law, a, b))

    def observed(outer: str, speed: float, inner: str, step: float, inner_scales: bool) -> None:
        if step == 0:
            return shift(outer, 0.0, speed)
        _refuse_jumps(outer, family.laws[outer], rescaled=True)
        _refuse_jumps(inner, family.laws[inner], rescaled=inner_scales)
        _refuse_unknown(inner, family.laws[inner], float(not inner_scales), float(inner_scales))
        parts.append(_conditional(family.laws[outer], speed, family.laws[inner], step, inner_scales))
        return None

    for factor in family.transform.factors:
        if isinstance(factor, Shift):
            shift(factor.name, v[factor.name])
        elif isinstance(factor, Scale):
            shift(factor.name, 0.0, v[factor.name] / beta[factor.name])
        elif isinstance(factor, ScaleThenShift):
            speed = v[factor.scale] / beta[factor.scale]
            observed(factor.scale, speed, factor.shift, v[factor.shift] - beta[factor.shift] * speed, False)
        elif isinstance(factor, PowerThenScale):
            speed = v[factor.power] / beta[factor.power]
            step = v[factor.scale] / beta[factor.scale] - math.log(beta[factor.scale]) * speed
            observed(factor.power, speed, factor.scale, step, True)
        elif isinstance(factor, ShiftThenScale):
            c = beta[factor.scale]
            speed = v[factor.scale] / c
            shift(factor.scale, 0.0, speed)
            shift(factor.shift, c * v[factor.shift], -speed)
        else:
            raise NotApplicable(f"{factor!r} is not a factor with known scores")
    return _combine(math.sqrt(variance), parts)


def _combine(sd: float, parts: list[Scores]) -> Scores:
    if not parts:
        return Scores(np.zeros(1), np.ones(1), np.array([sd]))
    smooth = [part for part in parts if part.sd.max() > 0]
    rough = [part for part in parts if part.sd.max() == 0]
    total: Scores | None = None
    if rough:
        scale = max(math.sqrt(float((part.p * part.s**2).sum())) for part in rough)
        scale = math.hypot(scale, sd)
        total = rough[0]
        for part in rough[1:]:
            total = _sum_on_grid(total, part, scale)
        if sd > 0 or smooth:
            total = _to_grid(total, scale)
    for part in smooth:
        total = (
            part
            if total is None
            else Scores(
                np.add.outer(total.s, part.s).ravel(),
                np.multiply.outer(total.p, part.p).ravel(),
                np.hypot.outer(total.sd, part.sd).ravel(),
                total.excess + part.excess,
            )
        )
    assert total is not None
    return Scores(total.s, total.p, np.hypot(total.sd, sd), total.excess)


def _to_grid(scores: Scores, scale: float) -> Scores:
    """Move each value to the grid points around it, keeping its mean; far ones are cut off on the safe side."""
    step = scale / 300
    s = np.maximum(scores.s, -10 * scale)  # raising low scores enlarges w
    excess = scores.excess + float((scores.p * np.maximum(s - 30 * scale, 0.0)).sum())
    s = np.minimum(s, 30 * scale)
    start = step * math.floor(float(s.min()) / step)
    position = ((s - start) / step).astype(np.int64)
    share = np.clip((s - start) / step - position, 0.0, 1.0)
    p = np.bincount(position, scores.p * (1 - share), minlength=int(position.max()) + 2)
    p = p + np.bincount(position + 1, scores.p * share, minlength=len(p))
    return Scores(start + step * np.arange(len(p)), p, np.zeros(len(p)), excess)


def _sum_on_grid(a: Scores, b: Scores, scale: float) -> Scores:
    a, b = _to_grid(a, scale), _to_grid(b, scale)
    p = convolve(a.p, b.p)
    return Scores(a.s[0] + b.s[0] + scale / 300 * np.arange(len(p)), p, np.zeros(len(p)), a.excess + b.excess + 1e-12)


@dataclass(frozen=True)
class Rate:
    """w(h) at the levels, and its maximum over all h."""

    w: np.ndarray
    peak: float

    def __post_init__(self) -> None:
        _read_only(self.w)


def rate_of(scores: Scores) -> Rate:
    """w from the law of the score: w(h) = min_q { q h + E(s - q)₊ }, an upper bound for every q tried."""
    keep = scores.p > 1e-18
    s, p, sd = scores.s[keep], scores.p[keep], scores.sd[keep]
    excess = scores.excess + float((scores.p * np.maximum(scores.s, 0.0))[~keep].sum())
    span = math.sqrt(float((p * (s**2 + sd**2)).sum()))
    if span == 0:
        return Rate(np.full_like(LEVELS, excess), excess)
    if float(sd.max()) == 0:
        q, expected = _expected_excess_of_atoms(s, p)
    elif float(sd.min()) == float(sd.max()) and len(s) > 500:
        q, expected = _expected_excess_on_grid(s, p, float(sd[0]), span)
    else:
        q, expected = _expected_excess_of_mixture(s, p, np.maximum(sd, 1e-12 * span), span)
    # expected is convex in q, so the best q for a level is where its slope passes -h.
    slope = np.diff(expected) / np.diff(q)
    best = np.searchsorted(slope, -LEVELS)
    tried = [np.clip(best + shift, 0, len(q) - 1) for shift in (-1, 0, 1)]
    w = np.min([q[i] * LEVELS + expected[i] for i in tried], axis=0) + excess
    peak = float(np.interp(0.0, q, expected)) + excess  # a chord of a convex function lies above it
    return Rate(w, peak)


def _expected_excess_of_atoms(s: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending q and E(s - q)₊ for finitely many values, q running through them: exact."""
    q, where = np.unique(s, return_inverse=True)
    mass = np.bincount(where, p)
    above = np.concatenate((np.cumsum(mass[::-1])[::-1][1:], [0.0]))
    total = np.concatenate((np.cumsum((mass * q)[::-1])[::-1][1:], [0.0]))
    return q, total - q * above


def _smeared_excess(x: np.ndarray, sd: np.ndarray | float) -> np.ndarray:
    """E(x + sd·N)₊."""
    z = x / sd
    expected: np.ndarray = sd * (z * ndtr(z) + np.exp(-0.5 * z * z) / _SQRT_2PI)
    return expected


def _expected_excess_on_grid(s: np.ndarray, p: np.ndarray, sd: float, span: float) -> tuple[np.ndarray, np.ndarray]:
    """The same for values on a uniform grid, all smeared alike: one convolution."""
    step = float(np.min(np.diff(s)))
    index = np.rint((s - s[0]) / step).astype(np.int64)
    mass = np.bincount(index, p)
    reach = math.ceil((8 * sd + 2 * step) / step)
    # q runs over the grid, widened by the smear: E(s - q)₊ = Σ_i p_i ψ(s_i - q).
    q = s[0] + step * np.arange(-reach, len(mass) + reach)
    lags = step * np.arange(-(len(q) - 1) + reach, len(mass) + reach)
    values = convolve(mass[::-1], _smeared_excess(lags, sd))
    expected = values[len(mass) - 1 : len(mass) - 1 + len(q)][::-1]
    return q, expected


def _expected_excess_of_mixture(
    s: np.ndarray, p: np.ndarray, sd: np.ndarray, span: float
) -> tuple[np.ndarray, np.ndarray]:
    """The same for values smeared differently, at q as dense as the answer needs."""
    low = high = 5.0 * span
    while float((p * ndtr((s - high) / sd)).sum()) > LEVELS[0] / 20:
        high *= 1.3
    q = np.concatenate((np.linspace(-low, 4 * span, 500, endpoint=False), np.linspace(4 * span, high, 250)))
    expected = np.empty_like(q)
    for i in range(0, len(q), 64):  # in blocks: the table (q, s) can be large
        expected[i : i + 64] = (p * _smeared_excess(s - q[i : i + 64, None], sd)).sum(axis=1)
    return q, expected


#: t ↦ β(t) on [0, 1], named parameters; those left out stay at the identity. It may return a second dictionary, its
#: velocity: that enters no number, but is refused where it is not the derivative.
Curve = Callable[[float], Mapping[str, float] | tuple[Mapping[str, float], Mapping[str, float]]]


@dataclass(frozen=True)
class Leg:
    """One straight piece of a path, run through in ``duration``: both ends name every parameter."""

    start: Mapping[str, float]
    end: Mapping[str, float]
    duration: float = 1.0

    def at(self, s: float) -> dict[str, float]:
        """The parameter at a share s in [0, 1] of the way."""
        return {name: a + s * (self.end[name] - a) for name, a in self.start.items()}

    @property
    def velocity(self) -> dict[str, float]:
        return {name: (self.end[name] - a) / self.duration for name, a in self.start.items()}


def straight_leg(family: SmoothedFamily, beta: Mapping[str, float]) -> Leg:
    """The straight path from the identity to β in the raw parameters."""
    start = family.identity
    return Leg(start, {**start, **beta})


class _Followed:
    """A user's curve, each of its values checked once."""

    def __init__(self, family: SmoothedFamily, curve: Curve) -> None:
        self.family, self.curve = family, curve
        self._points: dict[float, np.ndarray] = {}

    def __call__(self, t: float) -> np.ndarray:
        """β(t) as a vector in the order of the family's parameters."""
        if t not in self._points:
            point = _numbers(self._value(t)[0], t)
            try:
                self._points[t] = self.family.transform.vector(point).numpy()
                self.family.check_region(Box(**{name: (value, value) for name, value in point.items()}))
            except ValueError as error:
                raise UserError(f"the curve at t={t:g}: {error}") from None
        return self._points[t]

    def velocity(self, t: float) -> np.ndarray | None:
        """The velocity at t that came with the curve, if one did; parameters left out of it do not move."""
        _, *velocity = self._value(t)
        if not velocity:
            return None
        v = _numbers(velocity[0], t)
        return np.array([v.get(name, 0.0) for name in self.family.parameters])

    def _value(self, t: float) -> tuple[Mapping[str, float], ...]:
        value = self.curve(t)
        parts = value if isinstance(value, tuple) else (value,)
        if len(parts) not in (1, 2) or not all(isinstance(part, Mapping) for part in parts):
            raise UserError(
                f"the curve at t={t:g} is {value!r}; return a dictionary of named parameters, such as {{'tx': 3 * t}}"
            )
        return parts


def _numbers(values: Mapping[str, float], t: float) -> dict[str, float]:
    return {name: number(f"the curve at t={t:g}: {name}", value) for name, value in values.items()}


def polygon(family: SmoothedFamily, curve: Curve) -> list[Leg]:
    """Straight legs that follow a curve, from the identity over points β(t_j) to its end.

    A polygon is itself a path, with exact velocities, so the derivative of the curve is not needed. It has legs enough
    that two points of the curve beside each leg are within ``FOLLOWED`` of its extent from where the leg is then.

    Raises:
        ValueError: the curve does not start at the identity, leaves the domain, jumps, turns too often, ends at a
            fractional shift, or comes with a velocity that is not its derivative.
    """
    at = _Followed(family, curve)
    identity = family.transform.identity.numpy()
    if not (np.abs(at(0.0) - identity) <= 1e-9 * (1 + np.abs(identity))).all():
        raise UserError(
            f"the curve starts at {_named(family, at(0.0))}; it must start at the identity, {_named(family, identity)}"
        )
    at._points[0.0] = identity
    for name in family.transform.integer_parameters:
        end = float(at(1.0)[family.parameters.index(name)])
        if end != round(end):
            raise UserError(f"the curve ends at {name}={end!r}; shifts are by whole pixels, end at {round(end)}")
    times = [i / LEAST_LEGS for i in range(LEAST_LEGS + 1)]
    values = np.array([at(t) for t in times])
    extent = np.ptp(values, axis=0) + 1e-9 * (1 + np.abs(values).max(axis=0))

    def departure(a: float, b: float) -> float:
        # Beside the middle a point that no regular spacing of nodes meets, where a fast oscillation would hide.
        return max(
            float((np.abs(at(a + s * (b - a)) - (1 - s) * at(a) - s * at(b)) / extent).max()) for s in (0.5, 0.382)
        )

    queue = [(-departure(a, b), a, b) for a, b in itertools.pairwise(times)]
    heapq.heapify(queue)
    while -queue[0][0] > FOLLOWED:
        _, a, b = queue[0]
        if b - a < 1e-9:
            raise UserError(
                f"the curve jumps near t={a:g}, from {_named(family, at(a))} to {_named(family, at(b))}; it must be "
                "continuous"
            )
        if len(queue) >= MOST_LEGS:
            raise UserError(
                f"the curve turns too often, also near t={a:g}: {MOST_LEGS} straight legs do not follow it; give a "
                "simpler one"
            )
        middle = (a + b) / 2
        heapq.heapreplace(queue, (-departure(a, middle), a, middle))
        heapq.heappush(queue, (-departure(middle, b), middle, b))
    pairs = sorted((a, b) for _, a, b in queue)
    _check_velocity(at, pairs)
    points = [dict(zip(family.parameters, at(t).tolist(), strict=True)) for t in (0.0, *(b for _, b in pairs))]
    return [Leg(points[i], points[i + 1], b - a) for i, (a, b) in enumerate(pairs)]


def _check_velocity(at: _Followed, pairs: list[tuple[float, float]]) -> None:
    """Refuse a velocity whose integral over the legs is not how far they go, as nearly as the curve is followed."""
    moved = np.array([at(b) - at(a) for a, b in pairs])
    nodes, weights = np.polynomial.legendre.leggauss(3)
    integrals = np.zeros_like(moved)
    for j, (a, b) in enumerate(pairs):
        for node, weight in zip(nodes, weights, strict=True):
            v = at.velocity((a + b) / 2 + node * (b - a) / 2)
            if v is None:
                return
            integrals[j] += v * weight * (b - a) / 2
    gaps = np.abs(integrals - moved).sum(axis=0)
    allowed = FOLLOWED * np.abs(moved).sum(axis=0) + 1e-9 * (1 + np.abs(moved).max(axis=0))
    for name, gap, limit in zip(at.family.parameters, gaps.tolist(), allowed.tolist(), strict=True):
        if not gap <= limit:
            raise UserError(
                f"the curve's velocity is not its derivative: integrated leg by leg it misses how far {name} moves by "
                f"{gap:.2g} altogether; return the position alone, velocities are not needed"
            )


def _named(family: SmoothedFamily, point: np.ndarray) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in zip(family.parameters, point.tolist(), strict=True))


def least_value(family: SmoothedFamily, legs: Sequence[Leg]) -> float:
    """Largest h_min among the ends of the legs, each as it is applied, by Neyman-Pearson.

    It is what proves a value along a curve; 1/2 for a transformation without factors, whose values are estimates.
    """
    if family.transform.factors is None:
        return 0.5
    whole = family.transform.integer_parameters
    points = [{k: math.floor(v + 0.5) if k in whole else v for k, v in leg.end.items()} for leg in legs]
    return max(neyman_pearson.tradeoff(family, point).inverse(0.5) for point in points)


def rates_of(
    legs: Sequence[Leg], steps: int, rate: Callable[[dict[str, float], dict[str, float]], Rate]
) -> list[list[Rate]]:
    """w at ``steps`` + 1 nodes of each leg, from the function (β, v) ↦ w."""
    return [[rate(leg.at(j / steps), leg.velocity) for j in range(steps + 1)] for leg in legs]


def path_rates(family: SmoothedFamily, legs: Sequence[Leg], steps: int) -> list[list[Rate]]:
    return rates_of(legs, steps, lambda beta, v: rate_of(score_law(family, beta, v)))


@lru_cache(maxsize=128)
def straight_rates(family: SmoothedFamily, beta: tuple[tuple[str, float], ...], steps: int) -> tuple[Rate, ...]:
    family.transform.check(dict(beta))
    (rates,) = path_rates(family, [straight_leg(family, dict(beta))], steps)
    return tuple(rates)


@dataclass(frozen=True)
class ProductForm:
    """ξ and ĝ of Theorem 1 along a path of straight legs, with the margins already on the safe side.

    Attributes:
        levels: (K,) levels h, ascending to 1/2.
        p: (K,) the bound p(h) on w(h; β(t), v) / g(t).
        times: (L, T) nodes t of each leg.
        g: (L, T) g(t) = max_h w(h; β(t), v) there; it jumps from leg to leg.
        g_margins: (L,) error of each leg's ∫ g.
        least: what the required probability is at least: Neyman-Pearson's at the ends of the legs.
        vertices: the ends β(t_j) of the legs, the curve's end last.
    """

    levels: np.ndarray
    p: np.ndarray
    times: np.ndarray
    g: np.ndarray
    g_margins: np.ndarray
    least: float = 0.5
    vertices: tuple[Mapping[str, float], ...] = ()

    def g_hat(self, t: float = 1.0) -> float:
        """ĝ(β(t)) = ∫₀ᵗ g, rounded up: non-decreasing in t."""
        return sum(
            float(CubicSpline(times, g).integrate(times[0], min(t, times[-1]))) + float(margin)
            for times, g, margin in zip(self.times, self.g, self.g_margins, strict=True)
            if times[0] < t
        )

    def xi(self, h: float) -> float:
        """ξ(h) = -∫_h^½ dh / p(h) for levels h in (0, 1/2]; ξ(1/2) = 0. Rounded towards 0, never extrapolated."""
        if not self.levels[0] <= h <= 0.5:
            raise ValueError(f"h={h} is outside the tabulated levels [{self.levels[0]:g}, 0.5]")
        return -float(np.interp(h, self.levels, self._integral()))

    def _integral(self) -> np.ndarray:
        """∫_h^½ dh/p at the levels: trapezoids in log h, less their error."""
        y = self.levels / self.p
        u = np.log(self.levels)
        cells = np.diff(u) * (y[1:] + y[:-1]) / 2
        fine = np.concatenate((np.cumsum(cells[::-1])[::-1], [0.0]))
        # The trapezoid's error is h²/12 |y''|; second differences estimate h² y'', a third of them is ample.
        bend = np.abs(np.diff(y, 2)) * np.diff(u)[1:] / 3
        error = np.concatenate((np.cumsum(bend[::-1])[::-1], [0.0, 0.0]))
        return np.maximum(fine - error - 1e-9, 0.0)

    @property
    def required_probability(self) -> float:
        """h_min at the end of the path: the least h with ĝ < ξ(1/2) - ξ(1 - h); 1.0 if there is none."""
        return max(self.least, self.required_after(self.g_hat()))

    def required_after(self, distance: float) -> float:
        integral = self._integral()
        if distance <= 0:
            return 0.5
        if integral[0] <= distance:
            return 1.0  # ξ may be finite at 0: what is not tabulated is not claimed
        # The integral falls with h; find the level where it meets the distance. In log h its slope is -h / p(h), and p
        # is concave (w is) with p(0) = 0: so it is concave, its chords lie below it, and the level is rounded down.
        return 1.0 - math.exp(float(np.interp(distance, integral[::-1], np.log(self.levels[::-1]))))


def _shape(rates: Sequence[Sequence[Rate]]) -> np.ndarray:
    """p(h) from the nodes of all legs."""
    shapes = [rate.w / rate.peak for leg in rates for rate in leg if rate.peak > 0]
    return np.max(shapes, axis=0) if shapes else np.ones_like(LEVELS)


def product_of_rates(
    rates: Sequence[Sequence[Rate]], legs: Sequence[Leg] = (Leg({}, {}),), least: float = 0.5
) -> ProductForm:
    """The product form of w at the nodes of each leg; one leg of duration 1 when left out."""
    g = np.array([[rate.peak for rate in leg] for leg in rates])
    ends = np.cumsum([0.0, *(leg.duration for leg in legs)])
    times = np.linspace(ends[:-1], ends[1:], g.shape[1], axis=1)
    errors = [abs(simpson(y, x=x) - simpson(y[::2], x=x[::2])) for x, y in zip(times, g, strict=True)]
    # p and g are smooth along a leg: their maxima and integrals converge at least quadratically, so the error
    # left is a third of the difference between the two resolutions, or less; twice the difference is added.
    p, half_p = _shape(rates), _shape([leg[::2] for leg in rates])
    p = p + 2 * np.abs(p - half_p) + 1e-9
    margins = 2 * np.array(errors) + 1e-12
    return ProductForm(LEVELS, p, times, g, margins, least, tuple(FrozenMapping(leg.end) for leg in legs))


def product_form(family: SmoothedFamily, curve: Curve) -> ProductForm:
    """ξ and ĝ along a curve t ↦ β(t) on [0, 1] that starts at the identity (Theorem 1).

    The curve is replaced by a polygon through some of its points (:func:`polygon`), and ξ and ĝ are the polygon's.
    What is proved is that ``required_probability`` certifies the end of the curve and every one of ``vertices``, each
    as it is applied: it is at least Neyman-Pearson's value there. Of what lies between two vertices nothing is
    claimed, since w is evaluated at finitely many points of a leg.

    Raises:
        NotApplicable: a law whose score misses mass, no factors with closed-form scores, or a transformation that is
            only approximately resolvable.
        ValueError: as :func:`polygon`.
    """
    legs = polygon(family, curve)
    return product_of_rates(path_rates(family, legs, LEG_STEPS), legs, least_value(family, legs))


def _ode(rates: Sequence[Sequence[Rate]], legs: Sequence[Leg], substeps: int = 4) -> float:
    """U(0) of U′(t) = w(U; t), U(1) = 1/2, by classical Runge-Kutta; between a leg's nodes w is a cubic spline in t."""
    u = 0.5
    for leg_rates, leg in zip(reversed(rates), reversed(legs), strict=True):
        u = _ode_back(u, leg_rates, leg.duration, substeps)
        if u <= LEVELS[0]:
            return 0.0
    return u


def _ode_back(u: float, rates: Sequence[Rate], duration: float, substeps: int) -> float:
    """From the end of one leg to its start."""
    count = (len(rates) - 1) * substeps
    table = CubicSpline(np.linspace(0, 1, len(rates)), [rate.w for rate in rates])(np.linspace(0, 1, 2 * count + 1))
    logs = np.log(LEVELS)
    # Where w is concave in log h its chords lie below it, by no more than about w/8 times the squared spacing.
    table *= 1 + (logs[1] - logs[0]) ** 2 / 4

    def w(u: float, row: int) -> float:
        return float(np.interp(math.log(max(u, LEVELS[0])), logs, table[row]))

    h = duration / count
    for row in range(2 * count, 0, -2):
        k1 = w(u, row)
        k2 = w(u - h / 2 * k1, row - 1)
        k3 = w(u - h / 2 * k2, row - 1)
        k4 = w(u - h * k3, row - 2)
        u -= h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if u <= LEVELS[0]:
            return 0.0
    return u


def ode_form(family: SmoothedFamily, curve: Curve) -> float:
    """h_min at the end of a curve without factorisation: 1 - U(0), U′ = w(U; β(t), β′(t)), U(1) = 1/2.

    Along the same polygon as :func:`product_form`, with the same claim: the end and the vertices, and no more.
    """
    legs = polygon(family, curve)
    return max(least_value(family, legs), ode_of_rates(path_rates(family, legs, LEG_STEPS), legs))


def ode_of_rates(rates: Sequence[Sequence[Rate]], legs: Sequence[Leg] = (Leg({}, {}),)) -> float:
    """The ode form of w at the nodes of each leg; one leg of duration 1 when left out."""
    fine, coarse = _ode(rates, legs), _ode([leg[::2] for leg in rates], legs)  # half the nodes and half the steps
    if fine <= 0 or coarse <= 0:
        return 1.0
    return min(1.0, 1.0 - fine + 2 * abs(fine - coarse) + 2e-6)


def _key(beta: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(beta.items()))


def straight_form(family: SmoothedFamily, beta: Mapping[str, float], steps: int = STEPS) -> ProductForm:
    """ξ and ĝ along the straight path from the identity to β."""
    return product_of_rates([straight_rates(family, _key(beta), steps)])


def product_at(family: SmoothedFamily, beta: Mapping[str, float], steps: int = STEPS) -> float:
    """h_min(β) by the product form along the straight path."""
    return straight_form(family, beta, steps).required_probability


def ode_at(family: SmoothedFamily, beta: Mapping[str, float], steps: int = STEPS) -> float:
    """h_min(β) by the ode form along the straight path."""
    return ode_of_rates([straight_rates(family, _key(beta), steps)])


def printed(family: SmoothedFamily, beta: Mapping[str, float], steps: int = STEPS) -> float:
    """What the paper's Algorithms 1-2 ask for as printed: UNSOUND.

    They multiply g by ‖β_j - β₀‖ and integrate it over t, although dh/dt carries that factor already, so the
    integral has an extra factor t and comes out about half of what it must be. For comparison only.
    """
    form = straight_form(family, beta, steps)
    return form.required_after(float(np.trapezoid(form.times[0] * form.g[0], form.times[0])))
