"""From one parameter to a whole region: which β can be worst, and why no other one can.

Three arguments cover a box, axis by axis.

*Monotone axes.* If a coordinate's family has a monotone likelihood ratio (a shifted log-concave law; a rescaled law
whose logarithm is log-concave), its trade-off curve only falls as the parameter moves away from the identity, and a
product of independent (or conditionally independent, given an observed coordinate) parts falls with each of its
parts (Blackwell's order). So only the two ends of the interval matter.

*Cyclic axes.* A shift whose whole trade-off curve lies above another's can never be the worse one, whatever it is
combined with; curves of finite laws are piecewise linear, so this is checked exactly, and the remaining shifts are
all tried.

*Search axes.* The contrast of c·x + b, the power of c·x^g and laws that are not log-concave have no such order. The
interval is cut into cells. Along one coordinate with smooth laws, h_min(β) is the supremum over lines of functionals
that are convex in the density of μ_β, and the density is within w²/8 ∫|∂²ρ| of the chord between a cell's ends, so the
ends bound the cell up to second order. Otherwise, for β* and any β′ = g∘β* in a cell, the group structure gives
h_min(β′) <= N_β*⁻¹(N_g⁻¹(1/2)), and N_g⁻¹(1/2) is bounded over the cell through total variation and the monotone
rescaling. Cells are refined until the bound is within a tolerance of a value attained; the bound, not the value, is
returned.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from glsmooth.bounds.base import NotApplicable
from glsmooth.bounds.loss import (
    Atoms,
    Monotone,
    Sum,
    Supported,
    Tradeoff,
    cyclic_pair,
    line_inverse,
    line_value,
    move_of,
    scalar_pair,
)
from glsmooth.bounds.neyman_pearson import cyclic_masses, tradeoff
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import LAWS, Law
from glsmooth.transforms.factors import Factor, PowerThenScale, Scale, ScaleThenShift, Shift, ShiftThenScale

__all__ = ["Worst", "candidates", "covers_torus", "worst_case"]

#: Cells are refined until the returned bound is within this of a value that some β attains, or the budget is spent.
TOLERANCE = 7e-7
#: The same for balls, which are covered by boxes.
ROUGH_TOLERANCE = 1e-4
#: Most parameters tried in a box, where each takes milliseconds; those that take longer count for more.
BUDGET = 600
#: The same for boxes that cover something else.
ROUGH_BUDGET = 60

Interval = tuple[float, float]


@dataclass(frozen=True)
class Worst:
    """An upper bound ``value`` on a quantity over a region, and the β with the largest value found."""

    value: float
    beta: dict[str, float]
    argument: str


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


def _symmetric_shift(law: Law) -> bool:
    return law.symmetric_about is not None


def covers_torus(family: SmoothedFamily, region: Box) -> list[str]:
    """Translation parameters whose interval holds every shift of the cycle."""
    full = []
    for name, size in family.torus.items():
        if name in region.intervals:
            low, high = region.intervals[name]
            if math.floor(high) - math.ceil(low) + 1 >= size:
                full.append(name)
    return full


def _cyclic_candidates(law: Law, size: int, interval: Interval) -> list[float]:
    """Integer shifts in the interval, less those that another one dominates on the whole trade-off curve."""
    low, high = math.ceil(interval[0] - 1e-9), math.floor(interval[1] + 1e-9)
    if low > high:
        raise NotApplicable(f"the interval {list(interval)} holds no whole number of pixels")
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


class _Required:
    """h_min: N_β⁻¹(1/2), never below 1/2 since doing nothing costs nothing."""

    most = 1.0

    def __call__(self, curve: Tradeoff, step: Step = STAY) -> float:
        """The quantity at β, or a bound on it over a cell around β."""
        return min(1.0, max(0.5, curve.inverse(step.inverse(0.5))))

    def lines(self, curve: Supported) -> tuple[float, ...]:
        """The supporting line that gives the quantity at β."""
        return (curve.threshold(0.5, under_beta=True),)

    def along(self, curve: Supported, lines: tuple[float, ...]) -> float:
        """An upper bound on the quantity at β by any given line."""
        (t,) = lines
        return line_inverse(curve, t, 0.5)

    def bend(self, lines: tuple[float, ...]) -> float:
        """How much of the total variation of ρ's curvature the line lets through."""
        return math.exp(-lines[0])


@dataclass(frozen=True)
class _Deficit:
    """1 - N_β(p_A) - N_β(1 - p_B): below 0 the class keeps the lead."""

    levels: tuple[float, float]
    most = math.inf

    def __call__(self, curve: Tradeoff, step: Step = STAY) -> float:
        return 1.0 - sum(step(curve(p)) for p in self.levels)

    def lines(self, curve: Supported) -> tuple[float, ...]:
        return tuple(min(curve.threshold(p, under_beta=False), 700.0) for p in self.levels)

    def along(self, curve: Supported, lines: tuple[float, ...]) -> float:
        return 1.0 - sum(line_value(curve, t, p) for p, t in zip(self.levels, lines, strict=True))

    def bend(self, lines: tuple[float, ...]) -> float:
        return float(len(lines))


#: A quantity that certifies where it is small.
Value = _Required | _Deficit


@dataclass(frozen=True)
class _Axes:
    """A factor's share of a box: finite choices, and intervals that must be searched.

    ``fixed`` lists assignments; for each, ``search`` intervals remain. ``step`` bounds what lies between a point and
    a cell around it. ``curvature`` is half of sup ∫ |∂²ρ_β| along a single search axis, given the fixed values; None
    where that is not finite.
    """

    fixed: list[dict[str, float]]
    search: dict[str, Interval]
    step: Callable[[dict[str, float], dict[str, Interval]], Step] | None = None
    curvature: Callable[[dict[str, float]], float] | None = None


def _grow(interval: Interval, centre: float) -> float:
    return max(abs(interval[0] - centre), abs(interval[1] - centre))


def _mean(law: Law) -> float:
    return float(law.mean)


def _shift_axes(factor: Shift, family: SmoothedFamily, interval: Interval) -> _Axes:
    law = family.laws[factor.name]
    size = family.torus.get(factor.name)
    if size is not None:
        values = _cyclic_candidates(law, size, interval)
        return _Axes([{factor.name: v} for v in values], {})
    if law.log_concave:
        return _Axes([{factor.name: v} for v in _ends(interval, 0.0, _symmetric_shift(law))], {})
    if interval[0] == interval[1]:
        return _Axes([{factor.name: interval[0]}], {})

    def step(point: dict[str, float], cell: dict[str, Interval]) -> Step:
        return Step(((None, (1.0, 1.0), _grow(cell[factor.name], point[factor.name]) * law.peak),))

    smooth = _smoothness(law, log=False)
    return _Axes([{}], {factor.name: interval}, step, (lambda _: smooth.second / 2) if smooth else None)


def _affine_axes(outer: str, inner: str, family: SmoothedFamily, box: dict[str, Interval], inner_scales: bool) -> _Axes:
    """Axes of c·x + b and of c·x^g: given the outer coordinate, the inner one is an ordinary shift or scale."""
    law_o, law_i = family.laws[outer], family.laws[inner]
    o, i = box[outer], box[inner]
    identity = 1.0 if inner_scales else 0.0
    if i == (identity, identity):
        return _Axes([{outer: v, inner: identity} for v in _ends(o, 1.0, law_o.symmetric_in_log, log=True)], {})
    ordered = law_i.log_concave_in_log if inner_scales else law_i.log_concave
    if ordered:
        symmetric = law_i.symmetric_in_log if inner_scales else _symmetric_shift(law_i)
        inner_values = [{inner: v} for v in _ends(i, identity, symmetric, log=inner_scales)]
        if o[0] == o[1]:
            return _Axes([{outer: o[0], **v} for v in inner_values], {})
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

    smooth_o, smooth_i = _smoothness(law_o, log=True), _smoothness(law_i, log=inner_scales)
    usable = ordered and smooth_o is not None and smooth_i is not None
    return _Axes(inner_values, search, step, curvature if usable else None)


def _shift_then_scale_axes(factor: ShiftThenScale, family: SmoothedFamily, box: dict[str, Interval]) -> _Axes:
    """Axes of c·(x + b): the coordinates are independent, both move with c."""
    c, b = factor.scale, factor.shift
    law_c, law_b = family.laws[c], family.laws[b]
    centred = law_b.gaussian_scale is not None and law_b.symmetric_about == 0
    if box[b] == (0.0, 0.0) and (centred or law_b.log_concave_in_log):
        # A pure rescaling of both; |b| has a monotone ratio when b is a centred normal.
        return _Axes([{c: v, b: 0.0} for v in _ends(box[c], 1.0)], {})
    if box[c] == (1.0, 1.0):
        axes = _shift_axes(Shift(b), family, box[b])
        return _Axes([{c: 1.0, **fixed} for fixed in axes.fixed], axes.search, axes.step)
    if centred:
        # At fixed c: the best test is an interval around μ/(1 - v) or its complement, and moving μ away from 0
        # raises its power (the derivative at a fixed test is positive), so the ends in |b| are worst.
        fixed = [{b: v} for v in _ends(box[b], 0.0, symmetric=True)]
        search = {c: box[c]}
    else:
        fixed, search = [{}], {c: box[c], b: box[b]}
    if box[c][0] == box[c][1] and centred:
        return _Axes([{c: box[c][0], **v} for v in fixed], {})
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

    smooth_c = _smoothness(law_c, log=True)

    def curvature(_: dict[str, float]) -> float:
        # The rescaled centred normal has E|1 - z²| = 4φ(1) and E|1 - 4z² + z⁴| = 1.8321….
        assert smooth_c is not None
        return 0.5 * (smooth_c.second + 2 * smooth_c.first * 0.968 + 1.833)

    return _Axes(fixed, search, step, curvature if centred and smooth_c is not None else None)


@dataclass(frozen=True)
class _Smoothness:
    """Integrals of a density τ(u) and its derivatives; for ``log`` laws u = log α and weights are powers of α."""

    first: float  # ∫ |τ′|
    second: float  # ∫ |τ″|
    first_weighted: float  # ∫ |τ′| α
    mean: float  # ∫ τ α
    square: float  # ∫ τ α²


@lru_cache(maxsize=64)
def _smoothness(law: Law, log: bool) -> _Smoothness | None:
    """The integrals in closed form; None where they would be needed and are not finite (densities that jump)."""
    smooth = math.isfinite(law.bend_of_log) if log else law.shifts_smoothly and math.isfinite(law.bend)
    if not smooth:
        return None
    if not log:  # densities rise to their peak and fall from it
        return _Smoothness(2 * law.peak, law.bend, math.inf, math.inf, math.inf)
    # ∫ |τ′| α, τ rising up to u = m and falling behind: integrated by parts on either side.
    top = torch.tensor(law.mode_of_log, dtype=torch.float64)
    weighted = 2 * law.peak_of_log * float(top) - float(law.lower_mean(top)) + float(law.upper_mean(top))
    return _Smoothness(2 * law.peak_of_log, law.bend_of_log, weighted, _mean(law), law.second_moment)


def _refuse_own(laws: list[Law]) -> None:
    """Pairs of parameters need more of their laws than a law of the caller's own has to say."""
    for law in laws:
        if type(law) not in LAWS.values():
            raise NotApplicable(
                f"{law!r} is a law of your own; nothing is known between the ends of a region where one parameter "
                "moves the other; use one of glsmooth's laws, or give Points([...])"
            )


def _refuse_unordered(name: str, law: Law, interval: Interval) -> None:
    """Rescalings are ordered by their size only where the law's logarithm has a log-concave density."""
    if interval[0] != interval[1] and not law.log_concave_in_log:
        raise NotApplicable(
            f"{law!r} does not say that its logarithm has a log-concave density (log_concave_in_log), so nothing is "
            f"known between the ends of region.{name}=[{interval[0]:g}, {interval[1]:g}]; give Points([...]), or one "
            "of glsmooth's positive laws"
        )


def _axes(factor: Factor, family: SmoothedFamily, box: dict[str, Interval]) -> _Axes:
    if isinstance(factor, Shift):
        return _shift_axes(factor, family, box[factor.name])
    rescaled = factor.parameters[0]  # in each of the other groups
    _refuse_unordered(rescaled, family.laws[rescaled], box[rescaled])
    if isinstance(factor, Scale):
        law = family.laws[factor.name]
        ends = _ends(box[factor.name], 1.0, law.symmetric_in_log, log=True)
        return _Axes([{factor.name: v} for v in ends], {})
    _refuse_own([family.laws[name] for name in factor.parameters])
    if isinstance(factor, ScaleThenShift):
        return _affine_axes(factor.scale, factor.shift, family, box, inner_scales=False)
    if isinstance(factor, PowerThenScale):
        return _affine_axes(factor.power, factor.scale, family, box, inner_scales=True)
    if isinstance(factor, ShiftThenScale):
        return _shift_then_scale_axes(factor, family, box)
    raise NotApplicable(f"{factor!r} is not a factor with known densities")


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
    shares = [_axes(factor, family, box) for factor in family.transform.factors or ()]
    for choice in itertools.product(*(share.fixed for share in shares)):
        fixed = {k: v for part in choice for k, v in part.items()}
        names = [name for share in shares for name in share.search]
        for corner in itertools.product(*(sorted(set(box[name])) for name in names)):
            yield {**fixed, **dict(zip(names, corner, strict=True))}


def _worst_in_box(family: SmoothedFamily, region: Box, value: Value, rough: bool = False) -> Worst:
    """Cover one box; ``rough`` is quicker and looser, for boxes that cover something else."""
    tolerance, budget = (ROUGH_TOLERANCE, ROUGH_BUDGET) if rough else (TOLERANCE, BUDGET)
    box = full_box(family, region)
    shares = [_axes(factor, family, box) for factor in family.transform.factors or ()]
    search = {name: interval for share in shares for name, interval in share.search.items()}
    fixed = [
        {k: v for part in choice for k, v in part.items()}
        for choice in itertools.product(*(share.fixed for share in shares))
    ]
    if not search:
        results = [(value(tradeoff(family, beta, coarse=rough)), beta) for beta in fixed]
        best, beta = max(results, key=lambda result: result[0])
        return Worst(best, beta, "monotone or exhausted on every axis: the worst of finitely many parameters")

    curved = [share for share in shares if share.search]
    if len(search) == 1 and curved[0].curvature is not None:
        results_on_lines = [
            _worst_on_segment(family, start, *next(iter(search.items())), curved[0].curvature(start), value, rough)
            for start in fixed
        ]
        return max(results_on_lines, key=lambda result: result.value)

    best, best_beta = -math.inf, fixed[0]
    counter = itertools.count()
    queue: list[tuple[float, int, dict[str, float], dict[str, Interval]]] = []
    spent = 0.0

    def visit(start: dict[str, float], cell: dict[str, Interval]) -> None:
        nonlocal best, best_beta, spent
        centre = {name: _middle(name, interval, family) for name, interval in cell.items()}
        beta = {**start, **centre}
        step = STAY
        for share in shares:
            if share.step is not None:
                step = step.then(share.step(beta, {name: cell[name] for name in share.search}))
        quick = tradeoff(family, beta, coarse=True)
        spent += _cost(quick, family)
        bound = value(quick, step)
        # The quick curve settles most cells; near the best one its own error would keep them open.
        near = bound < best + 5e-5 or bound - value(quick) < 2e-5
        if not rough and bound > best + tolerance and near:
            curve = tradeoff(family, beta)
            spent += _cost(curve, family)
            best, best_beta = max((best, best_beta), (value(curve), beta), key=lambda pair: pair[0])
            bound = min(bound, value(curve, step))
        heapq.heappush(queue, (-bound, next(counter), start, cell))

    for start in fixed:
        for corner in itertools.product(*(sorted(set(interval)) for interval in search.values())):
            beta = {**start, **dict(zip(search, corner, strict=True))}
            attained = value(tradeoff(family, beta, coarse=rough))
            if attained > best:
                best, best_beta = attained, beta
        visit(start, dict(search))
    while -queue[0][0] > best + tolerance and spent < budget:
        _, _, start, cell = heapq.heappop(queue)
        name = max(cell, key=lambda k: _width(k, cell[k], family) / max(_width(k, search[k], family), 1e-300))
        middle = _middle(name, cell[name], family)
        visit(start, {**cell, name: (cell[name][0], middle)})
        visit(start, {**cell, name: (middle, cell[name][1])})
    bound = max(best, -queue[0][0])
    return Worst(
        bound,
        best_beta,
        f"adaptive cells over {', '.join(search)} (bound within {bound - best:.1g} of an attained value), "
        "monotone or exhausted on the other axes",
    )


def _worst_on_segment(
    family: SmoothedFamily,
    fixed: dict[str, float],
    name: str,
    interval: Interval,
    curvature: float,
    value: Value,
    rough: bool,
) -> Worst:
    """Worst case along one coordinate (its logarithm where it is positive) by cells of second order.

    Each quantity is a supremum over lines t of functionals like ∫ (ρ_0 - e^-t ρ_k)₊ of the density, convex in ρ_k. In
    a cell of width w the density is within ``curvature``·w²/8 (one-sided total variation) of the chord between the
    cell's ends, so the functional is at most the larger of its values at the ends plus that times the line's factor.
    """
    tolerance, budget = (ROUGH_TOLERANCE, ROUGH_BUDGET) if rough else (TOLERANCE, BUDGET)
    curves: dict[float, tuple[Any, tuple[float, ...]]] = {}
    best, best_beta, spent = -math.inf, fixed, 0.0

    def node(x: float) -> tuple[Any, tuple[float, ...]]:
        nonlocal best, best_beta, spent
        if x not in curves:
            beta = {**fixed, name: x}
            curve: Any = tradeoff(family, beta, coarse=rough)
            if isinstance(curve, Monotone):  # which has no lines
                curve = scalar_pair(curve.law, curve.shift, curve.scale)
            spent += _cost(curve, family)
            curves[x] = curve, value.lines(curve)
            attained = value(curve)
            if attained > best:
                best, best_beta = attained, beta
        return curves[x]

    counter = itertools.count()
    queue: list[tuple[float, int, Interval]] = []

    def visit(cell: Interval) -> None:
        ends = [node(x) for x in cell]
        size = _width(name, cell, family) ** 2 / 8 * curvature
        bound = min(max(value.along(curve, lines) for curve, _ in ends) + value.bend(lines) * size for _, lines in ends)
        heapq.heappush(queue, (-bound, next(counter), cell))

    visit(interval)
    while -queue[0][0] > best + tolerance and spent < budget:
        _, _, (low, high) = heapq.heappop(queue)
        middle = _middle(name, (low, high), family)
        visit((low, middle))
        visit((middle, high))
    bound = min(max(best, -queue[0][0]), value.most)
    return Worst(
        bound,
        best_beta,
        f"adaptive cells over {name} (bound within {bound - best:.1g} of an attained value), "
        "monotone or exhausted on the other axes",
    )


def _cost(curve: Tradeoff, family: SmoothedFamily) -> float:
    """How much of the budget a parameter takes, roughly in milliseconds."""
    if isinstance(curve, Sum):
        return 1.0 + len(curve.plain.ell) * len(curve.smear.ell) / 1e6 + 7.0 * curve.smear.move.slow
    inner = [family.laws[f.shift] for f in family.transform.factors or () if isinstance(f, ScaleThenShift)]
    # Sums with moves that are neither normal nor flat are tabulated first; grids are convolved.
    tabulated = max((8.0 if move_of(law, False, True)[0].slow else 4.0 for law in inner), default=1.0)
    return tabulated + (len(curve.ell) / 1e4 if isinstance(curve, Atoms) else 0.0)


def _in_log(name: str, interval: Interval, family: SmoothedFamily) -> bool:
    """Do cells of this axis live on the logarithm? Those of rescalings do, whose identity is 1."""
    factors = family.transform.factors or ()
    identities = {n: v for factor in factors for n, v in zip(factor.parameters, factor.identity, strict=True)}
    return identities[name] == 1.0 and interval[0] > 0


def _middle(name: str, interval: Interval, family: SmoothedFamily) -> float:
    if _in_log(name, interval, family):
        return math.sqrt(interval[0] * interval[1])
    return (interval[0] + interval[1]) / 2


def _width(name: str, interval: Interval, family: SmoothedFamily) -> float:
    if _in_log(name, interval, family):
        return math.log(interval[1] / interval[0])
    return interval[1] - interval[0]


def _worst_in_ball(family: SmoothedFamily, ball: Ball, value: Value) -> Worst:
    identity = family.identity
    names = list(ball.centre)
    centred = all(ball.centre[name] == identity[name] for name in names)
    plain = {f.name for f in family.transform.factors or () if isinstance(f, Shift) and f.name not in family.torus}
    scales = {name: family.laws[name].gaussian_scale or math.inf for name in names}
    if centred and set(names) <= plain and all(math.isfinite(scale) for scale in scales.values()):
        # Normal shifts: h_min grows with Σ(β_i/σ_i)², largest along the axis with the smallest scale.
        name = min(names, key=scales.__getitem__)
        beta = {**identity, name: ball.radius}
        return Worst(value(tradeoff(family, beta)), beta, "normal shifts: worst along the smallest scale")
    if set(names) <= set(family.torus):
        return _worst_of(
            (_worst_in_box(family, slab, value) for slab in _slabs(ball, names)),
            "all whole shifts in the ball",
        )
    return _cover_ball(family, ball, value)


def _slabs(ball: Ball, names: list[str]) -> Iterator[Box]:
    """Boxes over whole shifts whose union is the ball's whole shifts."""
    first, rest = names[0], names[1:]
    centre = ball.centre[first]
    if not rest:
        yield Box(**{first: (centre - ball.radius, centre + ball.radius)})
        return
    # Rounding of the two ends must not lose a shift on the boundary.
    for v in range(math.ceil(centre - ball.radius - 1e-9), math.floor(centre + ball.radius + 1e-9) + 1):
        left = math.sqrt(max(0.0, ball.radius**2 - (v - centre) ** 2)) + 1e-9
        for slab in _slabs(Ball(left, **{name: ball.centre[name] for name in rest}), rest):
            if all(math.ceil(low) <= math.floor(high) for low, high in slab.intervals.values()):
                yield Box(**{first: (v, v)}, **slab.intervals)


def _worst_of(results: Iterator[Worst], argument: str) -> Worst:
    worst = max(results, key=lambda result: result.value, default=None)
    if worst is None:
        raise NotApplicable("the ball holds no whole number of pixels")
    return Worst(worst.value, worst.beta, argument)


def _cover_ball(family: SmoothedFamily, ball: Ball, value: Value) -> Worst:
    """Cover the ball by boxes, refined where their bound exceeds what points of the ball attain."""
    names = list(ball.centre)
    best, best_beta = -math.inf, {}
    counter = itertools.count()
    queue: list[tuple[float, int, Box]] = []

    def visit(box: Box) -> None:
        nonlocal best, best_beta
        near = {n: min(max(c, box.intervals[n][0]), box.intervals[n][1]) for n, c in ball.centre.items()}
        if math.dist(list(near.values()), list(ball.centre.values())) > ball.radius:
            return
        cyclic = [box.intervals[n] for n in names if n in family.torus]
        if any(math.ceil(low - 1e-9) > math.floor(high + 1e-9) for low, high in cyclic):
            return  # no whole shift inside
        worst = _worst_in_box(family, box, value, rough=True)
        # Pull the box's worst point back into the ball for a value that is attained.
        offset = {n: worst.beta[n] - ball.centre[n] for n in names}
        length = math.hypot(*offset.values())
        shrink = min(1.0, ball.radius / length) if length else 1.0
        inside = {**worst.beta, **{n: ball.centre[n] + shrink * offset[n] for n in names}}
        inside = {n: round(v) if n in family.torus else v for n, v in inside.items()}
        if ball.contains(inside):
            attained = value(tradeoff(family, inside, coarse=True))
            if attained > best:
                best, best_beta = attained, inside
        heapq.heappush(queue, (-worst.value, next(counter), box))

    visit(Box(**{n: (c - ball.radius, c + ball.radius) for n, c in ball.centre.items()}))
    for _ in range(200):
        if not queue or -queue[0][0] <= best + 4 * ROUGH_TOLERANCE:
            break
        _, _, box = heapq.heappop(queue)
        name = max(names, key=lambda n: box.intervals[n][1] - box.intervals[n][0])
        low, high = box.intervals[name]
        for half in ((low, (low + high) / 2), ((low + high) / 2, high)):
            visit(Box(**{**box.intervals, name: half}))
    if not queue:
        raise NotApplicable("the ball holds no whole number of pixels")
    bound = max(best, -queue[0][0])
    return Worst(
        bound,
        best_beta,
        f"boxes that cover the ball (bound within {bound - best:.1g} of an attained value)",
    )


@lru_cache(maxsize=64)
def worst_case(family: SmoothedFamily, region: Region) -> Worst:
    """Upper bound on h_min(β) over every β of the region.

    Raises:
        NotApplicable: the transformation declares no factors.
        ValueError: the region does not fit the family.
    """
    return _worst_in(family, region, _Required())


def worst_deficit(family: SmoothedFamily, region: Region, p_lower: float, p_upper: float) -> Worst:
    """Upper bound on 1 - N_β(p_A) - N_β(1 - p_B) over the region: below 0 the class stays ahead of every other one.

    Args:
        p_lower: lower bound p_A of the class's probability.
        p_upper: upper bound p_B of the largest probability of another class.
    """

    return _worst_in(family, region, _Deficit((p_lower, 1.0 - p_upper)))


def _worst_in(family: SmoothedFamily, region: Region, value: Value) -> Worst:
    if not family.transform.resolvable:
        raise NotApplicable(f"{family.transform!r} is only approximately resolvable, so it is never certified")
    if family.transform.factors is None:
        raise NotApplicable(f"{family.transform!r} declares no factors; use the sampled bound for it")
    family.check_region(region)
    if isinstance(region, Points):
        results = [(value(tradeoff(family, point)), point) for point in region.points]
        worst, beta = max(results, key=lambda result: result[0])
        return Worst(worst, dict(beta), "the worst of the listed points")
    if isinstance(region, Ball):
        return _worst_in_ball(family, region, value)
    assert isinstance(region, Box)
    return _worst_in_box(family, as_applied(family, region), value)


def likely_worst(family: SmoothedFamily, region: Region, at: Callable[[dict[str, float]], float]) -> dict[str, float]:
    """The parameter with the largest value of a formula among those likely to be worst.

    Corners, three points of the intervals that need a search, directions of a ball. Not a bound by itself.
    """
    identity = family.identity
    if isinstance(region, Points):
        points = [{**identity, **point} for point in region.points]
    elif isinstance(region, Ball):
        points = [{**identity, **point} for point in _sphere(region)]
    else:
        assert isinstance(region, Box)
        region = as_applied(family, region)
        points = list(candidates(family, region))
        box = full_box(family, region)
        shares = [_axes(factor, family, box) for factor in family.transform.factors or ()]
        for name in (name for share in shares for name in share.search):
            low, high = box[name]
            points += [{**point, name: low + (high - low) * i / 4} for point in points[:2] for i in (1, 2, 3)]
    return points[0] if len(points) == 1 else max(points, key=at)


def _sphere(ball: Ball) -> Iterator[dict[str, float]]:
    names = list(ball.centre)
    rng = np.random.default_rng(0)
    directions = np.concatenate((np.eye(len(names)), -np.eye(len(names)), rng.standard_normal((24, len(names)))))
    for direction in directions / np.linalg.norm(directions, axis=1, keepdims=True):
        yield {n: c + ball.radius * float(d) for (n, c), d in zip(ball.centre.items(), direction, strict=True)}
