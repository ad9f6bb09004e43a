"""The certified set of one image in its true shape: every β by itself, {β : h_min(β) < p_A}.

No box enters. Where the set ends is found by the bound: a coarse grid says between which nodes, and bisection where;
every point that is handed out as a boundary was certified by the bound at that very point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from glsmooth.bounds import METHODS, certify_region, exceeds
from glsmooth.errors import UserError, did_you_mean
from glsmooth.family.regions import Box, Points
from glsmooth.family.sizes import multiplicative
from glsmooth.family.smoothed import SmoothedFamily

if TYPE_CHECKING:
    from matplotlib.path import Path

__all__ = ["Bound", "Line", "certified_runs", "nodes_of", "outline", "window_of"]

#: Bisections of a grid's edge: the boundary is within a thousandth of it.
_HALVINGS = 10
#: Points of a grid that are still waited for.
_MOST_POINTS = 20_000
#: Doublings of the first step, a sixteenth of the law's spread, after which a set counts as endless.
_DOUBLINGS = 10
#: How often a window is widened where the set goes on beyond it, each time by so much.
_WIDENINGS, _WIDER = 4, 1.35


class Bound:
    """h_min at single β by one method, which must prove it: a set of β is shown as certified.

    Raises:
        UserError: an unknown or unsound method, or a bound that is itself an estimate.
        NotApplicable: the method says nothing about this family.
    """

    def __init__(self, family: SmoothedFamily, method: str, p_lower: float, names: Sequence[str]) -> None:
        if method not in METHODS:
            raise UserError(f"method={method!r} is unknown{did_you_mean(str(method), METHODS)}")
        if not METHODS[method].sound:
            raise UserError(f"method={method} is unsound and certifies nothing; use method='neyman_pearson'")
        if not p_lower > 0.5:
            raise UserError(f"p_lower={p_lower:.6g}: nothing is certified; give a lower bound above 1/2")
        self.family, self.method, self.p_lower, self.names = family, method, p_lower, tuple(names)
        outcome = certify_region(family, Points([family.identity]), method)
        if not outcome.sound or outcome.failure_probability > 0:
            raise UserError(
                f"method={method}: its bound for {family.transform!r} is estimated from samples, each β by itself, so "
                "that it proves no set of many; declare the transformation's factors"
            )

    def at(self, *values: float) -> float:
        """h_min of the β with these values of ``names``; the other parameters stay at the identity."""
        point = Points([dict(zip(self.names, values, strict=True))])
        h_min = certify_region(self.family, point, self.method).h_min
        assert h_min is not None
        return h_min

    def certifies(self, *values: float) -> bool:
        return exceeds(self.p_lower, self.at(*values))

    def above(self, h_min: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of these values certify."""
        return exceeds(np.full(h_min.shape, self.p_lower), h_min)


@dataclass(frozen=True)
class Line:
    """A parameter's axis, in the coordinate u in which steps are even: β - β₀, or log(β / β₀) where it is a factor.

    Attributes:
        low, high: the least and the largest u that there is.
        unit: a small step of u.
    """

    name: str
    identity: float
    log: bool
    whole: bool
    low: float
    high: float
    unit: float

    @classmethod
    def of(cls, family: SmoothedFamily, name: str) -> Line:
        transform, law = family.transform, family.laws[name]
        identity, log = family.identity[name], multiplicative(transform, name)
        whole, cycle = name in transform.integer_parameters, family.torus.get(name)
        low, high = (-math.inf if log else transform.domain(name).low - identity), math.inf
        if cycle is not None:
            low, high = -float((cycle - 1) // 2), float(cycle // 2)
        if whole:
            return cls(name, identity, log, whole, low, high, 1.0)
        quarter, rest = law.icdf(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
        spread = math.log(rest / quarter) if log else rest - quarter
        return cls(name, identity, log, whole, low, high, spread / 16)

    def value(self, u: float) -> float:
        """β at u."""
        if u == 0:
            return self.identity
        return self.identity * math.exp(u) if self.log else self.identity + u

    def coordinate(self, value: float) -> float:
        """u at β."""
        return math.log(value / self.identity) if self.log else value - self.identity

    def inside(self, u: float) -> float:
        return min(max(u, self.low), self.high)


def _reach(line: Line, certifies: Callable[[float], bool], sign: int) -> float:
    """How far from the identity, u >= 0, the parameter alone stays certified; about."""
    end = abs(line.inside(sign * math.inf))
    good, bad = 0.0, math.inf
    step = line.unit
    for _ in range(_DOUBLINGS):
        u = min(step, end)
        if not certifies(line.value(sign * u)):
            bad = u
            break
        good = u
        if u == end:
            return end
        step *= 2
    while math.isfinite(bad) and bad - good > max(line.unit * line.whole, bad / 16):
        middle = (good + bad) / 2
        middle = float(round(middle)) if line.whole else middle
        good, bad = (middle, bad) if certifies(line.value(sign * middle)) else (good, middle)
    return good


def window_of(bound: Bound, lines: Sequence[Line], shown: Mapping[str, tuple[float, float]]) -> list[list[float]]:
    """[low, high] in u for each line: the set along that parameter alone, the values of ``shown``, and some room."""
    identity = [line.identity for line in lines]
    window = []
    for i, line in enumerate(lines):

        def certifies(value: float, i: int = i) -> bool:
            return bound.certifies(*identity[:i], value, *identity[i + 1 :])

        ends = [-_reach(line, certifies, -1), _reach(line, certifies, 1)]
        if line.name in shown:
            inner, outer = (line.coordinate(value) for value in shown[line.name])
            ends = [min(ends[0], inner), max(ends[1], outer)]
        room = max(0.15 * (ends[1] - ends[0]), line.unit)
        window.append([line.inside(ends[0] - room), line.inside(ends[1] + room)])
    return window


def nodes_of(line: Line, window: Sequence[float], count: int) -> NDArray[np.float64]:
    """About ``count`` values of u over the window, 0 among them; every whole one where the action rounds.

    Raises:
        UserError: more whole ones than are waited for.
    """
    low, high = window
    if line.whole:
        first, last = math.ceil(low), math.floor(high)
        if last - first >= _MOST_POINTS:  # before memory is taken for them
            raise UserError(f"window: {line.name} from {first} to {last} is too much to draw; give a smaller window")
        return np.arange(first, last + 1, dtype=np.float64)
    if not low < 0 < high:
        return np.linspace(low, high, count)
    below = min(max(2, round(count * -low / (high - low))), count - 2)
    return np.concatenate((np.linspace(low, 0, below + 1)[:-1], np.linspace(0, high, count - below)))


def grid_of(
    bound: Bound, lines: tuple[Line, Line], window: list[list[float]], count: int, fixed: bool
) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Nodes in u of both axes and h_min there, (ny, nx); unless ``fixed`` the window grows until it holds the set."""
    for turn in range(_WIDENINGS + 1):
        nodes = [nodes_of(line, ends, count) for line, ends in zip(lines, window, strict=True)]
        if nodes[0].size * nodes[1].size > _MOST_POINTS:
            raise UserError(
                f"window: {nodes[0].size} × {nodes[1].size} shifts are too many to draw; give "
                f"window=gs.Box({lines[0].name}=(-20, 20), {lines[1].name}=(-20, 20)), for example"
            )
        h_min = np.array([[bound.at(lines[0].value(u), lines[1].value(v)) for u in nodes[0]] for v in nodes[1]])
        inside = bound.above(h_min)
        borders = ((inside[:, 0], inside[:, -1]), (inside[0], inside[-1]))
        grown = [
            [line.inside(end * _WIDER) if border.any() else end for end, border in zip(ends, sides, strict=True)]
            for line, ends, sides in zip(lines, window, borders, strict=True)
        ]
        if fixed or turn == _WIDENINGS or grown == window:
            break
        window = grown
    return nodes, h_min


def _edge(certifies: Callable[[float], bool], inside: float, outside: float) -> float:
    """The last certified u found between one that is and one that is not."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if certifies(middle) else (inside, middle)
    return inside


def certified_runs(
    nodes: NDArray[np.float64], certified: NDArray[np.bool_], certifies: Callable[[float], bool]
) -> Iterator[tuple[float, float]]:
    """Intervals [low, high] in u that are certified along a line; their ends are, by the bound."""
    low: float | None = float(nodes[0]) if certified[0] else None
    for (a, b), (is_in, next_in) in zip(pairwise(nodes.tolist()), pairwise(certified.tolist()), strict=True):
        if next_in and not is_in:
            low = _edge(certifies, b, a)
        elif is_in and not next_in:
            assert low is not None
            yield low, _edge(certifies, a, b)
            low = None
    if low is not None:
        yield low, float(nodes[-1])


def outline(
    bound: Bound, lines: tuple[Line, Line], nodes: Sequence[NDArray[np.float64]], h_min: NDArray[np.float64]
) -> Path | None:
    """The set over a grid of two continuous parameters as a path in β, with holes; None where no node is certified.

    Its vertices lie on edges of the grid, each at the last certified point that bisection found there.
    """
    from matplotlib.figure import Figure
    from matplotlib.path import Path

    inside = bound.above(h_min)
    if not inside.any():
        return None
    # matplotlib knows how the pieces hang together; in numbers of nodes, where each vertex lies is plain to see.
    levels = Figure().add_subplot().contourf(np.where(inside, 1.0, -1.0), levels=[0.0, 2.0])
    (path,) = levels.get_paths()

    def moved(x: float, y: float) -> tuple[float, float]:
        place = [x, y]
        axis = 0 if x != round(x) else 1
        corner = [round(x), round(y)]
        if place[axis] == corner[axis]:  # a node at the rim of the grid
            u, v = (float(nodes[i][corner[i]]) for i in (0, 1))
        else:
            fixed = float(nodes[1 - axis][corner[1 - axis]])
            first = math.floor(place[axis])
            ends = [first, first + 1]
            if not inside[(corner[1], first) if axis == 0 else (first, corner[0])]:
                ends.reverse()

            def certifies(u: float) -> bool:
                pair = (u, fixed) if axis == 0 else (fixed, u)
                return bound.certifies(lines[0].value(pair[0]), lines[1].value(pair[1]))

            found = _edge(certifies, *(float(nodes[axis][end]) for end in ends))
            u, v = (found, fixed) if axis == 0 else (fixed, found)
        return lines[0].value(u), lines[1].value(v)

    known: dict[tuple[float, float], tuple[float, float]] = {}
    vertices = []
    for x, y in np.asarray(path.vertices).tolist():
        if (x, y) not in known:
            known[x, y] = moved(x, y)
        vertices.append(known[x, y])
    return Path(np.array(vertices), path.codes)


def window_box(window: Box, lines: Sequence[Line]) -> list[list[float]]:
    """A user's window in u.

    Raises:
        UserError: it leaves a parameter out, or is empty.
    """
    found = []
    for line in lines:
        if line.name not in window.intervals:
            raise UserError(f"window: no interval for {line.name}; give one for each axis")
        ends = [line.inside(line.coordinate(value)) for value in window.intervals[line.name]]
        if not ends[0] < ends[1]:
            raise UserError(f"window: {line.name}={list(window.intervals[line.name])} shows nothing; give low < high")
        found.append(ends)
    return found
