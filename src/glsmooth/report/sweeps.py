"""Certified robust accuracy over many regions, from one run's stored votes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from glsmooth import bounds
from glsmooth.errors import UserError
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.resolvability import holds
from glsmooth.family.sizes import multiplicative, scaled
from glsmooth.family.smoothed import SmoothedFamily


def robust_accuracy(
    p_lower: NDArray[np.float64], correct: NDArray[np.bool_], h_min: NDArray[np.float64]
) -> NDArray[np.float64]:
    """CRA at required probabilities of any shape: mean(correct and p_lower > h_min) over the images.

    Args:
        p_lower: (images,) lower bounds p_A.
        correct: (images,) whether the selected class is the true one.
        h_min: required probabilities, any shape.
    """
    robust = np.asarray(bounds.exceeds(p_lower[correct], h_min[..., None]))
    return np.asarray(robust.sum(axis=-1) / len(p_lower))


# Region sizes from coarse to fine, so that a curve can stop anywhere: halves, then quarters, … sixteenths.
SIZES = (0.5, 1.5, 0.0, 2.0, *(i / 2**k for k in (2, 3, 4) for i in range(1, 2 * 2**k, 2)))


def fits(family: SmoothedFamily, region: Region) -> bool:
    """Does the region stay inside the parameters' domains?"""
    try:
        family.check_region(region)
    except UserError:
        return False
    return True


def region_curve(
    family: SmoothedFamily,
    region: Box | Ball,
    method: str,
    p_lower: NDArray[np.float64],
    correct: NDArray[np.bool_],
    h_min: float,
    seconds: float,
    tick: Callable[[], object] = lambda: None,
    images: Sequence[Tensor] = (),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """CRA of ``region`` scaled around the identity by :data:`SIZES`, as many of them as fit and ``seconds`` allow.

    Args:
        h_min: required probability of ``region`` itself, size 1.
        tick: called after every bound.
        images: some of the run's, on which a user's transformation is tried; at sizes where it is not what it says,
            nothing is certified.

    Returns:
        (k,) ascending sizes, 1 among them, and the (k,) CRA.
    """
    needed = {1.0: h_min}
    largest = scaled(family.transform, region, max(SIZES))
    everywhere = fits(family, largest) and holds(family, largest, images)
    end = time.perf_counter() + seconds
    for size in SIZES:
        there = scaled(family.transform, region, size)
        if not fits(family, there):
            tick()
            continue
        certifiable = everywhere or holds(family, there, images)
        needed[size] = bounds.required_probability(family, there, method) if certifiable else 1.0
        tick()
        if time.perf_counter() > end:
            break
    sizes = np.array(sorted(needed))
    return sizes, robust_accuracy(p_lower, correct, np.array([needed[size] for size in sizes]))


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter plane.

    Attributes:
        name: the parameter.
        nodes: (k,) values, evenly spaced, in the logarithm where ``log``.
        log: whether the axis is logarithmic (multiplicative parameters).
        identity: the parameter's identity.
        interval: the region's extent in the parameter.
    """

    name: str
    nodes: NDArray[np.float64]
    log: bool
    identity: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Plane:
    """A value at every point of a two-parameter plane: axes ``x`` and ``y``, ``values`` (ny, nx), and the region."""

    x: Axis
    y: Axis
    values: NDArray[np.float64]
    region: Region

    def circle(self) -> NDArray[np.float64] | None:
        """Points (k, 2) around the ball where the plane cuts it; None of other regions, and where it does not."""
        at = {axis.name: axis.identity for axis in (self.x, self.y)}
        return circle(self.region, (self.x.name, self.y.name), at) if isinstance(self.region, Ball) else None

    def points(self) -> list[tuple[float, float]]:
        """The listed points of the region; none of other regions."""
        listed = self.region.points if isinstance(self.region, Points) else ()
        return [(one.get(self.x.name, self.x.identity), one.get(self.y.name, self.y.identity)) for one in listed]


def circle(ball: Ball, names: tuple[str, str], identity: Mapping[str, float]) -> NDArray[np.float64] | None:
    """Points (k, 2) around a ball where the plane of two parameters, the others at the identity, cuts it.

    None where it does not, or where the ball lies in no plane of these.
    """
    if not set(names) <= set(ball.parameters):
        return None
    left = ball.radius**2 - sum((identity[n] - c) ** 2 for n, c in ball.centre.items() if n not in names)
    if left < 0:
        return None
    turn = np.linspace(0.0, 2 * np.pi, 361)
    way = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return np.array([ball.centre[name] for name in names]) + math.sqrt(left) * way


def plane_axes(family: SmoothedFamily, region: Region, nodes: int = 41) -> tuple[Axis, Axis] | None:
    """The axes of the plane of a two-parameter region; None for other regions.

    An axis covers the region and the identity, twice as far from the identity as the region's ends, with at most
    ``nodes`` values; of shifts these are whole pixels.
    """
    transform = family.transform
    box = region.box(family.identity)
    wide = scaled(transform, box, 2.0).box(family.identity)
    axes = []
    for name, interval in wide.intervals.items():
        identity = float(transform.identity[transform.parameters.index(name)])
        low, high = min(interval[0], identity), max(interval[1], identity)
        log = multiplicative(transform, name)
        if name in transform.integer_parameters:
            step = math.ceil((high - low + 1) / nodes)
            values = step * np.arange(math.ceil(low / step), math.floor(high / step) + 1, dtype=np.float64)
        else:
            values = np.geomspace(low, high, nodes) if log else np.linspace(low, high, nodes)
        if low < high and len(values) > 1:
            axes.append(Axis(name, values, log, identity, box.intervals[name]))
    return (axes[0], axes[1]) if len(axes) == 2 else None


def affordable_axes(family: SmoothedFamily, region: Region, method: str, seconds: float) -> tuple[Axis, Axis] | None:
    """:func:`plane_axes` with as many nodes as ``seconds`` allow; None where even a coarse grid takes longer."""
    axes = plane_axes(family, region)
    if axes is None:
        return None
    took = []
    for end in (0, -1):  # the first call may fill caches; the second must not find its own answer there
        corner = Points([{axis.name: float(axis.nodes[end]) for axis in axes}])
        start = time.perf_counter()
        bounds.required_probability(family, corner, method)
        took.append(time.perf_counter() - start)
    for nodes in (41, 21, 11):
        axes = plane_axes(family, region, nodes)
        if axes is not None and axes[0].nodes.size * axes[1].nodes.size * min(took) <= seconds:
            return axes
    return None


def required_probability_plane(
    family: SmoothedFamily,
    region: Region,
    axes: tuple[Axis, Axis],
    method: str,
    tick: Callable[[], object] = lambda: None,
) -> Plane:
    """h_min of every single point of the grid of ``axes``, of ``region``; ``tick`` is called after every bound."""
    x, y = axes
    h_min = np.empty((len(y.nodes), len(x.nodes)))
    for i, y_value in enumerate(y.nodes):
        for j, x_value in enumerate(x.nodes):
            point = Points([{x.name: float(x_value), y.name: float(y_value)}])
            h_min[i, j] = bounds.required_probability(family, point, method)
            tick()
    return Plane(x, y, h_min, region)
