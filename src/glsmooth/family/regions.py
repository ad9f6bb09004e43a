"""Regions of transformation parameters that a certificate covers: boxes, balls and finite sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glsmooth.errors import UserError
from glsmooth.laws.immutable import FrozenMapping, Immutable

__all__ = ["Ball", "Box", "Points", "Region", "region_of"]


def number(where: str, value: Any) -> float:
    """``value`` as a finite float; -0.0 is 0.0. ``where`` opens the message of the UserError."""
    if isinstance(value, (str, bytes)):
        raise UserError(f"{where}={value!r} is not a number; give a finite one")
    try:
        finite = float(value)  # numpy and torch scalars too
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{where}={value!r} is not a number; give a finite one") from None
    except OverflowError:
        finite = math.inf
    if not math.isfinite(finite):
        raise UserError(f"{where}={finite} is not finite; give a finite number")
    return finite + 0.0


class Region(Immutable):
    """A set of parameters β. Parameters that a region does not name stay at their identity.

    Regions never change, and are equal when their numbers are: bounds are cached by them.
    """

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the region speaks of."""
        raise NotImplementedError

    def contains(self, beta: Mapping[str, float]) -> bool:
        """Is β in the region? Looks only at the parameters that the region names."""
        raise NotImplementedError

    def box(self, identity: Mapping[str, float]) -> Box:
        """The smallest box that holds the region; ``identity``: of each of its parameters."""
        raise NotImplementedError

    def to_config(self) -> dict[str, Any]:
        """The region as plain primitives, for records: :func:`region_of` makes it again."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.to_config()})"


class Box(Region):
    """All β with ``low <= β_name <= high`` for every named parameter: ``Box(contrast=(0.5, 2.0), tx=(-4, 4))``.

    It need not contain the identity, and ``low == high`` is allowed. Translations move by whole pixels: on a torus the
    box means the whole shifts inside it, on the plane it covers what its values are rounded to as well.

    Raises:
        UserError: a bound that is not a finite number, or low above high.
    """

    intervals: FrozenMapping[tuple[float, float]]

    def __init__(self, **intervals: Sequence[float]) -> None:
        numbers: dict[str, tuple[float, float]] = {}
        for name, interval in intervals.items():
            if isinstance(interval, str) or not hasattr(interval, "__len__") or len(interval) != 2:
                raise UserError(f"{name}={interval!r} is not an interval; give [low, high]")
            low, high = (number(name, v) for v in interval)
            if low > high:
                raise UserError(f"{name}=[{low:g}, {high:g}] is inverted; give [{high:g}, {low:g}]")
            numbers[name] = (low, high)
        self._fill(intervals=FrozenMapping(numbers))

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(self.intervals)

    def contains(self, beta: Mapping[str, float]) -> bool:
        return all(low <= beta[name] <= high for name, (low, high) in self.intervals.items())

    def box(self, identity: Mapping[str, float]) -> Box:
        return self

    def to_config(self) -> dict[str, Any]:
        return {name: [low, high] for name, (low, high) in self.intervals.items()}


class Ball(Region):
    """All β within ``radius`` (l2, in the parameters' own units) of a centre: ``Ball(20, tx=0, ty=0)``.

    Translations move by whole pixels: the ball means the whole shifts inside it.

    Raises:
        UserError: no named parameter, a centre that is not finite, a radius that is not a number >= 0.
    """

    radius: float
    centre: FrozenMapping[float]

    def __init__(self, radius: float, **centre: float) -> None:
        radius = number("radius", radius)
        if radius < 0:
            raise UserError(f"radius={radius:g} is negative; give a number >= 0")
        if not centre:
            raise UserError("a ball needs named parameters with their centre, such as Ball(20, tx=0, ty=0)")
        numbers = {name: number(f"centre of {name}", value) for name, value in centre.items()}
        self._fill(radius=radius, centre=FrozenMapping(numbers))

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(self.centre)

    def contains(self, beta: Mapping[str, float]) -> bool:
        return math.hypot(*(beta[name] - value for name, value in self.centre.items())) <= self.radius

    def box(self, identity: Mapping[str, float]) -> Box:
        return Box(**{name: (value - self.radius, value + self.radius) for name, value in self.centre.items()})

    def to_config(self) -> dict[str, Any]:
        return {"ball": self.radius, "centre": dict(self.centre)}


class Points(Region):
    """Finitely many β: ``Points([{"tx": 1, "ty": 2}, {"tx": 3}])``.

    Raises:
        UserError: no point at all, or a value that is not finite.
    """

    points: tuple[FrozenMapping[float], ...]

    def __init__(self, points: Iterable[Mapping[str, float]]) -> None:
        if isinstance(points, (str, Mapping)) or not isinstance(points, Iterable):
            raise UserError(f"points={points!r} is not a list of points; give Points([{{'tx': 1, 'ty': 2}}, …])")
        points = list(points)
        for point in points:
            if not isinstance(point, Mapping):
                raise UserError(f"the point {point!r} does not name its parameters; give {{'tx': 1, 'ty': 2}}, say")
        numbers = tuple(FrozenMapping({n: number(n, value) for n, value in point.items()}) for point in points)
        if not numbers:
            raise UserError("points=[] is empty; give at least one point")
        self._fill(points=numbers)

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for point in self.points for name in point))

    def contains(self, beta: Mapping[str, float]) -> bool:
        return any(all(beta[name] == value for name, value in point.items()) for point in self.points)

    def box(self, identity: Mapping[str, float]) -> Box:
        values = {name: [point.get(name, identity[name]) for point in self.points] for name in self.parameters}
        return Box(**{name: (min(found), max(found)) for name, found in values.items()})

    def to_config(self) -> dict[str, Any]:
        return {"points": [dict(point) for point in self.points]}


def region_of(config: Mapping[str, Any]) -> Region:
    """The region that :meth:`Region.to_config` wrote.

    A parameter may be called ``ball`` or ``points``, too: of it there is an interval.

    Raises:
        UserError: it describes none.
    """
    if config.keys() == {"ball", "centre"} and isinstance(config["centre"], Mapping):
        return Ball(config["ball"], **config["centre"])
    if config.keys() == {"points"} and all(isinstance(point, Mapping) for point in config["points"]):
        return Points(config["points"])
    return Box(**config)
