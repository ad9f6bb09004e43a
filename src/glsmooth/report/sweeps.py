"""Certified robust accuracy over many regions, from one run's stored votes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from glsmooth import bounds
from glsmooth.family.regions import Box, Points
from glsmooth.family.resolvability import holds
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.transforms import ResolvableTransform


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


def multiplicative(transform: ResolvableTransform, name: str) -> bool:
    """Whether the parameter's domain is (0, inf): it composes by products and is scaled in the logarithm."""
    domain = transform.domain(name)
    return domain.low == 0.0 and not domain.low_included


def scaled_box(transform: ResolvableTransform, region: Box, scale: float) -> Box:
    """``region`` scaled around the identity: 0 is the identity alone, 1 is ``region``.

    Additive parameters move as identity + scale * (beta - identity), multiplicative ones as beta ** scale,
    so that [0.5, 2] becomes [0.25, 4] at scale 2. Ends stay inside the parameter's domain.
    """
    intervals = {}
    for i, name in enumerate(transform.parameters):
        if name not in region.intervals:
            continue
        identity = float(transform.identity[i])
        lowest = transform.domain(name).low
        ends = []
        for end in region.intervals[name]:
            if multiplicative(transform, name):
                ends.append(identity * (end / identity) ** scale)
            else:
                ends.append(max(identity + scale * (end - identity), lowest))
        intervals[name] = (ends[0], ends[1])
    return Box(**intervals)


# Region sizes from coarse to fine, so that a curve can stop anywhere: halves, then quarters, … sixteenths.
SIZES = (0.5, 1.5, 0.0, 2.0, *(i / 2**k for k in (2, 3, 4) for i in range(1, 2 * 2**k, 2)))


def region_curve(
    family: SmoothedFamily,
    region: Box,
    method: str,
    p_lower: NDArray[np.float64],
    correct: NDArray[np.bool_],
    h_min: float,
    seconds: float,
    tick: Callable[[], object] = lambda: None,
    images: Sequence[Tensor] = (),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """CRA of ``region`` scaled around the identity by :data:`SIZES`, as many of them as ``seconds`` allow.

    Args:
        h_min: required probability of ``region`` itself, size 1.
        tick: called after every bound.
        images: some of the run's, on which a user's transformation is tried; at sizes where it is not what it says,
            nothing is certified.

    Returns:
        (k,) ascending sizes, 1 among them, and the (k,) CRA.
    """
    needed = {1.0: h_min}
    everywhere = holds(family, scaled_box(family.transform, region, max(SIZES)), images)
    end = time.perf_counter() + seconds
    for size in SIZES:
        box = scaled_box(family.transform, region, size)
        certifiable = everywhere or holds(family, box, images)
        needed[size] = bounds.required_probability(family, box, method) if certifiable else 1.0
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
        interval: the region's interval of the parameter.
    """

    name: str
    nodes: NDArray[np.float64]
    log: bool
    identity: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Plane:
    """A value at every point of a two-parameter plane: axes ``x`` and ``y``, ``values`` (ny, nx)."""

    x: Axis
    y: Axis
    values: NDArray[np.float64]


def plane_axes(family: SmoothedFamily, region: Box, nodes: int = 41) -> tuple[Axis, Axis] | None:
    """The axes of the plane of a two-parameter region; None for other regions.

    An axis covers the region and the identity, twice as far from the identity as the region's ends, with at most
    ``nodes`` values; of shifts these are whole pixels.
    """
    transform = family.transform
    wide = scaled_box(transform, region, 2.0)
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
            axes.append(Axis(name, values, log, identity, region.intervals[name]))
    return (axes[0], axes[1]) if len(axes) == 2 else None


def affordable_axes(family: SmoothedFamily, region: Box, method: str, seconds: float) -> tuple[Axis, Axis] | None:
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
    family: SmoothedFamily, axes: tuple[Axis, Axis], method: str, tick: Callable[[], object] = lambda: None
) -> Plane:
    """h_min of every single point of the grid of ``axes``; ``tick`` is called after every bound."""
    x, y = axes
    h_min = np.empty((len(y.nodes), len(x.nodes)))
    for i, y_value in enumerate(y.nodes):
        for j, x_value in enumerate(x.nodes):
            point = Points([{x.name: float(x_value), y.name: float(y_value)}])
            h_min[i, j] = bounds.required_probability(family, point, method)
            tick()
    return Plane(x, y, h_min)
