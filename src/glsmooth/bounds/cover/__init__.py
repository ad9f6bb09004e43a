"""From one parameter to a whole region: which β can be worst, and why no other one can.

Each argument has its file: the axes of a box, of which many have only finitely many values that can be worst
(:mod:`~glsmooth.bounds.cover.axes`), the search over the others by cells (:mod:`~glsmooth.bounds.cover.search`), and
balls (:mod:`~glsmooth.bounds.cover.balls`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from glsmooth.bounds.base import NotApplicable
from glsmooth.bounds.cover.axes import as_applied, axes_of, candidates, full_box
from glsmooth.bounds.cover.balls import points_on, worst_in_ball
from glsmooth.bounds.cover.search import Deficit, Required, Value, Worst, worst_in_box
from glsmooth.bounds.neyman_pearson import tradeoff
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.smoothed import SmoothedFamily

__all__ = ["Worst", "candidates", "covers_torus", "likely_worst", "worst_case", "worst_deficit"]


@lru_cache(maxsize=64)
def worst_case(family: SmoothedFamily, region: Region) -> Worst:
    """Upper bound on h_min(β) over every β of the region.

    Raises:
        NotApplicable: the transformation declares no factors.
        ValueError: the region does not fit the family.
    """
    return _worst_in(family, region, Required())


def worst_deficit(family: SmoothedFamily, region: Region, p_lower: float, p_upper: float) -> Worst:
    """Upper bound on 1 - N_β(p_A) - N_β(1 - p_B) over the region: below 0 the class stays ahead of every other one.

    Args:
        p_lower: lower bound p_A of the class's probability.
        p_upper: upper bound p_B of the largest probability of another class.
    """

    return _worst_in(family, region, Deficit((p_lower, 1.0 - p_upper)))


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
        return worst_in_ball(family, region, value)
    assert isinstance(region, Box)
    return worst_in_box(family, as_applied(family, region), value)


def likely_worst(family: SmoothedFamily, region: Region, at: Callable[[dict[str, float]], float]) -> dict[str, float]:
    """The parameter with the largest value of a formula among those likely to be worst.

    Corners, three points of the intervals that need a search, directions of a ball. Not a bound by itself.
    """
    identity = family.identity
    if isinstance(region, Points):
        points = [{**identity, **point} for point in region.points]
    elif isinstance(region, Ball):
        points = [{**identity, **point} for point in points_on(region)]
    else:
        assert isinstance(region, Box)
        region = as_applied(family, region)
        points = list(candidates(family, region))
        box = full_box(family, region)
        shares = [axes_of(factor, family, box) for factor in family.transform.factors or ()]
        for name in (name for share in shares for name in share.search):
            low, high = box[name]
            points += [{**point, name: low + (high - low) * i / 4} for point in points[:2] for i in (1, 2, 3)]
    return points[0] if len(points) == 1 else max(points, key=at)


def covers_torus(family: SmoothedFamily, region: Region) -> list[str]:
    """Translation parameters whose interval, in a box, holds every shift of the cycle."""
    full: list[str] = []
    if not isinstance(region, Box):
        return full
    for name, size in family.torus.items():
        if name in region.intervals:
            low, high = region.intervals[name]
            if math.floor(high) - math.ceil(low) + 1 >= size:
                full.append(name)
    return full
