"""Balls: normal shifts by their symmetry, whole shifts by slabs, all others by boxes that cover the ball."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from glsmooth.bounds.base import NotApplicable
from glsmooth.bounds.cover.search import ROUGH_TOLERANCE, Value, Worst, worst_in_box
from glsmooth.bounds.neyman_pearson import tradeoff
from glsmooth.family.regions import Ball, Box
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.transforms.factors import Shift

__all__ = ["points_on", "slabs", "worst_in_ball"]

#: Boxes that cover a ball are halved so often at most.
BOXES = 200


def worst_in_ball(family: SmoothedFamily, ball: Ball, value: Value) -> Worst:
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
            (worst_in_box(family, slab, value) for slab in slabs(ball, names)),
            "all whole shifts in the ball",
        )
    return _cover_ball(family, ball, value)


def slabs(ball: Ball, names: list[str]) -> Iterator[Box]:
    """Boxes over whole shifts whose union is the ball's whole shifts, and those that are hardly outside of it."""
    first, rest = names[0], names[1:]
    # In exact numbers: a difference of squares that floats round to 0 may be that of a shift near the boundary. And a
    # little larger, for what lies on the boundary in decimal numbers may not in binary ones.
    radius, middle = Fraction(ball.radius) + Fraction(1, 10**9), Fraction(ball.centre[first])
    if not rest:
        yield Box(**{first: (float(middle - radius), float(middle + radius))})
        return
    for v in range(math.ceil(middle - radius), math.floor(middle + radius) + 1):
        left = math.sqrt(radius**2 - (v - middle) ** 2)
        for slab in slabs(Ball(left, **{name: ball.centre[name] for name in rest}), rest):
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
        worst = worst_in_box(family, box, value, rough=True)
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
    for _ in range(BOXES):
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


def points_on(ball: Ball) -> Iterator[dict[str, float]]:
    names = list(ball.centre)
    rng = np.random.default_rng(0)
    directions = np.concatenate((np.eye(len(names)), -np.eye(len(names)), rng.standard_normal((24, len(names)))))
    for direction in directions / np.linalg.norm(directions, axis=1, keepdims=True):
        yield {n: c + ball.radius * float(d) for (n, c), d in zip(ball.centre.items(), direction, strict=True)}
