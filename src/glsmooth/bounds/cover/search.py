"""Boxes, by adaptive cells over the axes on which nothing is ordered.

Along one coordinate with smooth laws, h_min(β) is the supremum over lines of functionals that are convex in the density
of μ_β, and the density is within w²/8 ∫|∂²ρ| of the chord between a cell's ends, so the ends bound the cell up to
second order. Otherwise, for β* and any β′ = g∘β* in a cell, the group structure gives h_min(β′) <=
N_β*⁻¹(N_g⁻¹(1/2)), and N_g⁻¹(1/2) is bounded over the cell through total variation and the monotone rescaling. Cells
are refined until the bound is within a tolerance of a value attained; the bound, not the value, is returned.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from typing import Any

from glsmooth.bounds.cells import move_of, scalar_pair
from glsmooth.bounds.cover.axes import STAY, Interval, Step, axes_of, full_box, middle_of, width_of
from glsmooth.bounds.neyman_pearson import tradeoff
from glsmooth.bounds.tradeoffs import Atoms, Monotone, Sum, Supported, Tradeoff, line_inverse, line_value
from glsmooth.family.regions import Box
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.transforms.factors import ScaleThenShift

__all__ = ["ROUGH_TOLERANCE", "Deficit", "Required", "Value", "Worst", "worst_in_box"]


#: Cells are refined until the returned bound is within this of a value that some β attains, or the budget is spent.
TOLERANCE = 7e-7

#: The same for balls, which are covered by boxes.
ROUGH_TOLERANCE = 1e-4

#: Most parameters tried in a box, where each takes milliseconds; those that take longer count for more.
BUDGET = 600

#: The same for boxes that cover something else.
ROUGH_BUDGET = 60


@dataclass(frozen=True)
class Worst:
    """An upper bound ``value`` on a quantity over a region, and the β with the largest value found."""

    value: float
    beta: dict[str, float]
    argument: str


class Required:
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
class Deficit:
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
Value = Required | Deficit


def worst_in_box(family: SmoothedFamily, region: Box, value: Value, rough: bool = False) -> Worst:
    """Cover one box; ``rough`` is quicker and looser, for boxes that cover something else."""
    tolerance, budget = (ROUGH_TOLERANCE, ROUGH_BUDGET) if rough else (TOLERANCE, BUDGET)
    box = full_box(family, region)
    shares = [axes_of(factor, family, box) for factor in family.transform.factors or ()]
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
        centre = {name: middle_of(name, interval, family) for name, interval in cell.items()}
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
        name = max(cell, key=lambda k: width_of(k, cell[k], family) / max(width_of(k, search[k], family), 1e-300))
        middle = middle_of(name, cell[name], family)
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
        size = width_of(name, cell, family) ** 2 / 8 * curvature
        bound = min(max(value.along(curve, lines) for curve, _ in ends) + value.bend(lines) * size for _, lines in ends)
        heapq.heappush(queue, (-bound, next(counter), cell))

    visit(interval)
    while -queue[0][0] > best + tolerance and spent < budget:
        _, _, (low, high) = heapq.heappop(queue)
        middle = middle_of(name, (low, high), family)
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
