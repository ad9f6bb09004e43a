"""A factor's share of a box: which of its values can be worst, and what lies between those that are tried.

*Monotone axes.* If a coordinate's family has a monotone likelihood ratio (a shifted log-concave law; a rescaled law
whose logarithm is log-concave), its trade-off curve only falls as the parameter moves away from the identity, and a
product of independent (or conditionally independent, given an observed coordinate) parts falls with each of its
parts (Blackwell's order). So only the two ends of the interval matter.

*Cyclic axes.* A shift whose whole trade-off curve lies above another's can never be the worse one, whatever it is
combined with; curves of finite laws are piecewise linear, so this is checked exactly, and the remaining shifts are
all tried.

*Search axes.* The contrast of c·x + b, the power of c·x^g and laws that are not log-concave have no such order:
:mod:`glsmooth.bounds.cover.search` cuts their intervals into cells, and the axes say what lies between the points of a
cell (:class:`Step`, and the curvature of the density).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from glsmooth.bounds.base import NotApplicable
from glsmooth.bounds.cells import cyclic_pair
from glsmooth.bounds.neyman_pearson import ShiftThenScaleBeside, cyclic_masses
from glsmooth.bounds.tradeoffs import Monotone
from glsmooth.family.regions import Box
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import Law
from glsmooth.laws.checks import is_own
from glsmooth.transforms.factors import Factor, PowerThenScale, Scale, ScaleThenShift, Shift, ShiftThenScale

__all__ = [
    "STAY",
    "Axes",
    "Interval",
    "Step",
    "as_applied",
    "axes_of",
    "candidates",
    "cyclic_candidates",
    "full_box",
    "middle_of",
    "smoothness",
    "width_of",
]


Interval = tuple[float, float]


@dataclass(frozen=True)
class Step:
    """How much can change between a point β* and any β′ = g∘β* of a cell: a lower bound on all the curves N_g.

    Each move is a rescaling of a law by some ratio of an interval around 1, then a loss of total variation.
    """

    moves: tuple[tuple[Law | None, Interval, float], ...] = ()

    def then(self, other: Step) -> Step:
        return Step(self.moves + other.moves)

    def inverse(self, q: float) -> float:
        """The least level at β* that leaves level q everywhere in the cell."""
        for law, ratios, variation in self.moves:
            q = min(1.0, q + variation)
            if law is not None:
                q = max([q, *(Monotone(law, 0.0, r).inverse(q) for r in ratios if r != 1)])
        return q

    def __call__(self, p: float) -> float:
        """The level that level p at β* leaves everywhere in the cell."""
        for law, ratios, variation in reversed(self.moves):
            if law is not None:
                p = min([p, *(Monotone(law, 0.0, r)(p) for r in ratios if r != 1)])
            p = max(0.0, p - variation)
        return p


STAY = Step()


@dataclass(frozen=True)
class Axes:
    """A factor's share of a box: finite choices, and intervals that must be searched.

    ``fixed`` lists assignments; for each, ``search`` intervals remain. ``step`` bounds what lies between a point and
    a cell around it. ``curvature`` is half of sup ∫ |∂²ρ_β| along a single search axis, given the fixed values; None
    where that is not finite.
    """

    fixed: list[dict[str, float]]
    search: dict[str, Interval]
    step: Callable[[dict[str, float], dict[str, Interval]], Step] | None = None
    curvature: Callable[[dict[str, float]], float] | None = None


def axes_of(factor: Factor, family: SmoothedFamily, box: dict[str, Interval]) -> Axes:
    if isinstance(factor, Shift):
        return _shift_axes(factor, family, box[factor.name])
    rescaled = factor.parameters[0]  # in each of the other groups
    _refuse_unordered(rescaled, family.laws[rescaled], box[rescaled])
    if isinstance(factor, Scale):
        law = family.laws[factor.name]
        ends = _ends(box[factor.name], 1.0, law.symmetric_in_log, log=True)
        return Axes([{factor.name: v} for v in ends], {})
    _refuse_own([family.laws[name] for name in factor.parameters])
    if isinstance(factor, ScaleThenShift):
        return _affine_axes(factor.scale, factor.shift, family, box, inner_scales=False)
    if isinstance(factor, PowerThenScale):
        return _affine_axes(factor.power, factor.scale, family, box, inner_scales=True)
    if isinstance(factor, ShiftThenScale):
        return _shift_then_scale_axes(factor, family, box)
    if isinstance(factor, ShiftThenScaleBeside):
        return _beside_axes(factor, family, box)
    raise NotApplicable(f"{factor!r} is not a factor with known densities")


def _shift_axes(factor: Shift, family: SmoothedFamily, interval: Interval) -> Axes:
    law = family.laws[factor.name]
    size = family.torus.get(factor.name)
    if size is not None:
        values = cyclic_candidates(law, size, interval)
        if not values:
            raise NotApplicable(f"{factor.name}={list(interval)} holds no whole number of pixels")
        return Axes([{factor.name: v} for v in values], {})
    if law.log_concave:
        return Axes([{factor.name: v} for v in _ends(interval, 0.0, law.symmetric_about is not None)], {})
    if interval[0] == interval[1]:
        return Axes([{factor.name: interval[0]}], {})
    speed = law.shift_speed

    def step(point: dict[str, float], cell: dict[str, Interval]) -> Step:
        return Step(((None, (1.0, 1.0), _grow(cell[factor.name], point[factor.name]) * speed),))

    smooth = smoothness(law, log=False)
    return Axes([{}], {factor.name: interval}, step, (lambda _: smooth.second / 2) if smooth else None)


def _affine_axes(outer: str, inner: str, family: SmoothedFamily, box: dict[str, Interval], inner_scales: bool) -> Axes:
    """Axes of c·x + b and of c·x^g: given the outer coordinate, the inner one is an ordinary shift or scale."""
    law_o, law_i = family.laws[outer], family.laws[inner]
    o, i = box[outer], box[inner]
    identity = 1.0 if inner_scales else 0.0
    if i == (identity, identity):
        return Axes([{outer: v, inner: identity} for v in _ends(o, 1.0, law_o.symmetric_in_log, log=True)], {})
    ordered = law_i.log_concave_in_log if inner_scales else law_i.log_concave
    if ordered:
        symmetric = law_i.symmetric_in_log if inner_scales else law_i.symmetric_about is not None
        inner_values = [{inner: v} for v in _ends(i, identity, symmetric, log=inner_scales)]
        if o[0] == o[1]:
            return Axes([{outer: o[0], **v} for v in inner_values], {})
        search = {outer: o}
    else:
        inner_values, search = [{}], {outer: o, inner: i}

    peak = law_i.peak_of_log if inner_scales else law_i.peak
    mean = _mean(law_o)

    def step(point: dict[str, float], cell: dict[str, Interval]) -> Step:
        # β′ = g∘β* with g = (ρ, d): the inner coordinate moves by α_o·d, in log where it scales.
        o_cell = cell[outer]
        ratios = (o_cell[0] / point[outer], o_cell[1] / point[outer])
        i_cell = cell.get(inner, (point[inner], point[inner]))
        if inner_scales:
            start, ends = math.log(point[inner]), tuple(math.log(v) for v in i_cell)
        else:
            start, ends = point[inner], i_cell
        d = max(abs(end - r * start) for end in ends for r in ratios)
        return Step(((law_o, ratios, d * mean * peak),))

    def curvature(fixed: dict[str, float]) -> float:
        # ρ(w, y) = τ_o(w) τ_i(y - e^w d), moved along w = log of the outer coordinate.
        assert smooth_o is not None
        assert smooth_i is not None
        d = abs(math.log(fixed[inner]) if inner_scales else fixed[inner])
        return 0.5 * (
            smooth_o.second
            + 2 * smooth_o.first_weighted * d * smooth_i.first
            + smooth_o.square * d**2 * smooth_i.second
            + smooth_o.mean * d * smooth_i.first
        )

    smooth_o, smooth_i = smoothness(law_o, log=True), smoothness(law_i, log=inner_scales)
    usable = ordered and smooth_o is not None and smooth_i is not None
    return Axes(inner_values, search, step, curvature if usable else None)


def _shift_then_scale_axes(factor: ShiftThenScale, family: SmoothedFamily, box: dict[str, Interval]) -> Axes:
    """Axes of c·(x + b): the coordinates are independent, both move with c."""
    c, b = factor.scale, factor.shift
    law_c, law_b = family.laws[c], family.laws[b]
    centred = law_b.gaussian_scale is not None and law_b.symmetric_about == 0
    if box[b] == (0.0, 0.0) and (centred or law_b.log_concave_in_log):
        # A pure rescaling of both; |b| has a monotone ratio when b is a centred normal.
        return Axes([{c: v, b: 0.0} for v in _ends(box[c], 1.0)], {})
    if box[c] == (1.0, 1.0):
        axes = _shift_axes(Shift(b), family, box[b])
        return Axes([{c: 1.0, **fixed} for fixed in axes.fixed], axes.search, axes.step)
    if centred:
        # At fixed c: the best test is an interval around μ/(1 - v) or its complement, and moving μ away from 0
        # raises its power (the derivative at a fixed test is positive), so the ends in |b| are worst.
        fixed = [{b: v} for v in _ends(box[b], 0.0, symmetric=True)]
        search = {c: box[c]}
    else:
        fixed, search = [{}], {c: box[c], b: box[b]}
    if box[c][0] == box[c][1] and centred:
        return Axes([{c: box[c][0], **v} for v in fixed], {})
    speed = law_b.scale_speed
    peak = law_b.peak

    def step(point: dict[str, float], cell: dict[str, Interval]) -> Step:
        ratios = (cell[c][0] / point[c], cell[c][1] / point[c])
        b_cell = cell.get(b, (point[b], point[b]))
        shift = point[c] * _grow(b_cell, point[b])
        rescaled = speed * max(abs(math.log(r)) for r in ratios)
        # Widest rescaling of b enlarges the peak that the shift's total variation is measured with.
        shifted = shift * peak * max(ratios)
        return Step(((law_c, ratios, shifted + rescaled),))

    smooth_c = smoothness(law_c, log=True)

    def curvature(_: dict[str, float]) -> float:
        # The rescaled centred normal has E|1 - z²| = 4φ(1) and E|1 - 4z² + z⁴| = 1.8321….
        assert smooth_c is not None
        return 0.5 * (smooth_c.second + 2 * smooth_c.first * 0.968 + 1.833)

    return Axes(fixed, search, step, curvature if centred and smooth_c is not None else None)


def _beside_axes(factor: ShiftThenScaleBeside, family: SmoothedFamily, box: dict[str, Interval]) -> Axes:
    """Axes of c·(x + b) with a residual, of which only single contrasts are covered."""
    c, b = factor.scale, factor.shift
    if box[c][0] != box[c][1]:
        raise NotApplicable(
            f"with a residual nothing is known between the ends of {c}={list(box[c])} in c·(x + b); "
            "use the order contrast_first, or give Points([...])"
        )
    axes = _shift_then_scale_axes(ShiftThenScale(c, b), family, {c: box[c], b: box[b]})
    if axes.search:
        raise NotApplicable(f"with a residual {b}={list(box[b])} is covered under a normal law around 0 alone")
    return Axes([{**fixed, factor.beside: box[factor.beside][1]} for fixed in axes.fixed], {})


def _ends(interval: Interval, identity: float, symmetric: bool = False, log: bool = False) -> list[float]:
    """Values of a monotone axis that can be worst: the ends on either side of the identity."""
    low, high = interval
    ends = [v for v, outer in ((low, low < identity), (high, high > identity)) if outer]
    if not ends:
        return [identity if low <= identity <= high else low]
    if len(ends) == 2 and symmetric:
        far = max(ends, key=lambda v: abs(math.log(v / identity)) if log else abs(v - identity))
        ends = [far]
    return ends


def _grow(interval: Interval, centre: float) -> float:
    return max(abs(interval[0] - centre), abs(interval[1] - centre))


def _mean(law: Law) -> float:
    return float(law.mean)


def cyclic_candidates(law: Law, size: int, interval: Interval) -> list[float]:
    """Integer shifts in the interval, less those that another one dominates on the whole trade-off curve."""
    low, high = math.ceil(interval[0] - 1e-9), math.floor(interval[1] + 1e-9)
    if low > high:
        return []
    masses = cyclic_masses(law, size)
    reflected = np.allclose(masses[1:], masses[:0:-1], rtol=1e-12, atol=0)
    shifts: dict[int, int] = {}  # shift on the cycle (up to reflection) -> the integer that stands for it
    for shift in range(low, min(high, low + size - 1) + 1):
        key = shift % size
        key = min(key, size - key) if reflected else key
        shifts.setdefault(key, shift)
    if masses.max() - masses.min() <= 1e-15 * masses.max() or set(shifts) == {0}:
        return [float(low if not low <= 0 <= high else 0)]
    curves = {key: (*cyclic_pair(masses, key).corners(), cyclic_pair(masses, key).only_0) for key in shifts if key}
    order = sorted(curves, key=lambda key: -float(np.interp(0.5, curves[key][1], curves[key][0])))
    kept: list[int] = []
    for key in order:
        p, n, only = curves[key]
        if not any(_dominates(curves[other], p, n, only) for other in kept):
            kept.append(key)
    return [float(shifts[key]) for key in kept]


def _dominates(worse: tuple[np.ndarray, np.ndarray, float], p: np.ndarray, n: np.ndarray, only: float) -> bool:
    """Does the curve ``worse`` lie on or below the curve with corners (p, n) everywhere?

    Both are convex and piecewise linear: comparing at the corners of the upper one is enough.
    """
    at = np.interp(p, worse[0], worse[1], left=0.0)
    return bool((at <= n + 1e-13).all())


@dataclass(frozen=True)
class Smoothness:
    """Integrals of a density τ(u) and its derivatives; for ``log`` laws u = log α and weights are powers of α."""

    first: float  # ∫ |τ′|
    second: float  # ∫ |τ″|
    first_weighted: float  # ∫ |τ′| α
    mean: float  # ∫ τ α
    square: float  # ∫ τ α²


@lru_cache(maxsize=64)
def smoothness(law: Law, log: bool) -> Smoothness | None:
    """The integrals in closed form; None where they would be needed and are not finite (densities that jump)."""
    smooth = (
        math.isfinite(law.bend_of_log + law.peak_of_log) if log else law.shifts_smoothly and math.isfinite(law.bend)
    )
    if not smooth:
        return None
    if not log:  # densities rise to their peak and fall from it
        return Smoothness(2 * law.peak, law.bend, math.inf, math.inf, math.inf)
    # ∫ |τ′| α, τ rising up to u = m and falling behind: integrated by parts on either side.
    top = torch.tensor(law.mode_of_log, dtype=torch.float64)
    weighted = 2 * law.peak_of_log * float(top) - float(law.lower_mean(top)) + float(law.upper_mean(top))
    return Smoothness(2 * law.peak_of_log, law.bend_of_log, weighted, _mean(law), law.second_moment)


def _refuse_own(laws: list[Law]) -> None:
    """Pairs of parameters need more of their laws than a law of the caller's own has to say."""
    for law in laws:
        if is_own(law):
            raise NotApplicable(
                f"{law!r} is a law of your own; nothing is known between the ends of a region where one parameter "
                "moves the other; use one of glsmooth's laws, or give Points([...])"
            )


def _refuse_unordered(name: str, law: Law, interval: Interval) -> None:
    """Rescalings are ordered by their size only where the law's logarithm has a log-concave density."""
    if interval[0] != interval[1] and not law.log_concave_in_log:
        raise NotApplicable(
            f"{law!r} does not say that its logarithm has a log-concave density (log_concave_in_log), so nothing is "
            f"known between the ends of {name}=[{interval[0]:g}, {interval[1]:g}]; give Points([...]), or one "
            "of glsmooth's positive laws"
        )


def full_box(family: SmoothedFamily, region: Box) -> dict[str, Interval]:
    """The box with parameters that it leaves out at their identity."""
    identity = family.identity
    return {name: region.intervals.get(name, (v, v)) for name, v in identity.items()}


def as_applied(family: SmoothedFamily, region: Box) -> Box:
    """The box widened to the whole shifts that the action rounds its translations to.

    On the plane every β of a box is so covered as it is applied; on the torus a box means the whole shifts inside it.
    """
    widened = dict(region.intervals)
    for name in (family.transform.integer_parameters - family.torus.keys()) & widened.keys():
        low, high = widened[name]
        widened[name] = (min(low, math.floor(low + 0.5)), max(high, math.floor(high + 0.5)))
    return Box(**widened)


def candidates(family: SmoothedFamily, region: Box) -> Iterator[dict[str, float]]:
    """Finitely many β of a box among which its worst ones are, searched intervals shown by both ends."""
    box = full_box(family, region)
    shares = [axes_of(factor, family, box) for factor in family.transform.factors or ()]
    for choice in itertools.product(*(share.fixed for share in shares)):
        fixed = {k: v for part in choice for k, v in part.items()}
        names = [name for share in shares for name in share.search]
        for corner in itertools.product(*(sorted(set(box[name])) for name in names)):
            yield {**fixed, **dict(zip(names, corner, strict=True))}


def _in_log(name: str, interval: Interval, family: SmoothedFamily) -> bool:
    """Do cells of this axis live on the logarithm? Those of rescalings do, whose identity is 1."""
    factors = family.transform.factors or ()
    identities = {n: v for factor in factors for n, v in zip(factor.parameters, factor.identity, strict=True)}
    return identities[name] == 1.0 and interval[0] > 0


def middle_of(name: str, interval: Interval, family: SmoothedFamily) -> float:
    if _in_log(name, interval, family):
        return math.sqrt(interval[0] * interval[1])
    return (interval[0] + interval[1]) / 2


def width_of(name: str, interval: Interval, family: SmoothedFamily) -> float:
    if _in_log(name, interval, family):
        return math.log(interval[1] / interval[0])
    return interval[1] - interval[0]
