"""The largest distance of a curve from a point, from its values at finitely many times and bounds of its speed.

A curve of speed at most S on an interval of length Δ leads from one end to the other over any of its points, so no
point of it is further away than (d_0 + d_1)/2 + SΔ/2, where the ends are d_0 and d_1 away. A curve that strays from the
chord between its ends by no more than RΔ is no further away than max(d_0, d_1) + RΔ, for no point of a chord is further
away than one of its ends. Intervals whose bound is far above what was attained anywhere are halved. The halves have S
and R of the whole until these do not do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Supremum", "supremum"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

#: Intervals that are worked on at once.
_ROUND = 512


@dataclass(frozen=True)
class Supremum:
    """Of each of M curves.

    Attributes:
        upper: (M,), no point of the curve is further away.
        attained: (M,), the largest distance that was seen.
        where: (M,), the time at which.
    """

    upper: Array
    attained: Array
    where: Array


@dataclass(frozen=True)
class _Intervals:
    """Of curves: their ends, the distances there, S and R, which may be those of a larger interval."""

    curve: Index
    low: Array
    high: Array
    at_low: Array
    at_high: Array
    speed: Array
    sag: Array
    inherited: NDArray[np.bool_]

    def __getitem__(self, index: NDArray[np.bool_] | Index) -> _Intervals:
        return _Intervals(*(getattr(self, field.name)[index] for field in fields(self)))

    def __add__(self, other: _Intervals) -> _Intervals:
        return _Intervals(*(np.concatenate((getattr(self, f.name), getattr(other, f.name))) for f in fields(self)))

    @property
    def bound(self) -> Array:
        length = self.high - self.low
        over = (self.at_low + self.at_high + self.speed * length) / 2
        bound: Array = np.minimum(over, np.maximum(self.at_low, self.at_high) + self.sag * length)
        return bound


def supremum(
    edges: list[Array],
    distance: Callable[[Index, Array], Array],
    speeds: Callable[[Index, Array, Array], tuple[Array, Array]],
    tolerance: float,
    evaluations: int,
) -> Supremum:
    """Bound the distance of M curves, each over an interval, by branch and bound.

    Args:
        edges: of each curve ascending times, which cut its interval to begin with.
        distance: (curve, time) -> distance, elementwise.
        speeds: (curve, low, high) -> S and R between two times, elementwise.
        tolerance: no interval is halved whose bound is within this of what its curve attains.
        evaluations: most distances of each curve beyond those at ``edges``; what is left open then keeps its bound.
    """
    count = len(edges)
    curve = np.repeat(np.arange(count), [len(times) for times in edges])
    times = np.concatenate(edges)
    values = distance(curve, times)
    attained, where = np.full(count, -np.inf), np.zeros(count)
    _update(attained, where, curve, times, values)
    first = np.flatnonzero(curve[1:] == curve[:-1])
    low, high = times[first], times[first + 1]
    own = np.zeros(len(first), dtype=bool)
    open_ = _Intervals(curve[first], low, high, values[first], values[first + 1], *speeds(curve[first], low, high), own)
    upper, left = attained.copy(), np.full(count, evaluations)
    while True:
        bound = open_.bound
        excess = bound - attained[open_.curve] - tolerance
        closed = (excess <= 0) | (left[open_.curve] <= 0)
        np.maximum.at(upper, open_.curve[closed], bound[closed])
        if closed.all():
            return Supremum(upper, attained, where)
        order = np.flatnonzero(~closed)
        order = order[np.argsort(-excess[order], kind="stable")]
        now, later = open_[order[:_ROUND]], open_[order[_ROUND:]]
        if now.inherited.any():
            rest, now = now[~now.inherited], now[now.inherited]
            own = np.zeros(len(now.curve), dtype=bool)
            speed, sag = speeds(now.curve, now.low, now.high)
            open_ = later + rest + replace(now, speed=speed, sag=sag, inherited=own)
            continue
        middle = (now.low + now.high) / 2
        value = distance(now.curve, middle)
        _update(attained, where, now.curve, middle, value)
        np.subtract.at(left, now.curve, 1)
        handed_down = np.ones(len(middle), dtype=bool)
        open_ = (
            later
            + replace(now, high=middle, at_high=value, inherited=handed_down)
            + replace(now, low=middle, at_low=value, inherited=handed_down)
        )


def _update(attained: Array, where: Array, curve: Index, times: Array, values: Array) -> None:
    order = np.argsort(values, kind="stable")  # so that the largest of a curve is written last
    better = order[values[order] > attained[curve[order]]]
    where[curve[better]] = times[better]
    attained[curve[better]] = values[better]
