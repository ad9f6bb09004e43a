"""Smoothing laws that are finite: translations on the torus, whose every shift can be visited.

There h_c(β₀) = Σ_s P(s) · 1[f(φ(x, s)) = c] is a finite sum, so that votes need no sampling. Probabilities
are kept as integers, in units of 2^-62 and rounded down: their sums are exact in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from glsmooth.bounds.neyman_pearson import cyclic_error, cyclic_masses
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily

__all__ = ["FiniteLaw"]

_UNITS = 2.0**62  # a mass of 1; sums of such integers stay below 2^63
# Masses that agree to 2^-40 tie: mirrored shifts differ in their last bits only, and not on every machine alike.
_TIE_BITS = 22
#: Shifts that can be visited: those of 2048 x 2048 pixels, a few hundred megabytes.
_MOST = 2**22


@dataclass(frozen=True, eq=False)
class FiniteLaw:
    """The law of round(α) on the torus, the most probable shift first (ties: row by row).

    Attributes:
        points: (m, d) float64, the shifts that have mass, in the order of the family's parameters.
        weights: (m,) int64, their probabilities in units of 2^-62, rounded down.
        slack: how much a sum of ``weights`` may exceed the true probability, from rounding in float64.
    """

    points: np.ndarray
    weights: np.ndarray
    slack: float

    @classmethod
    def of(cls, family: SmoothedFamily) -> FiniteLaw:
        """The law of ``family``.

        Raises:
            UserError: the law is not finite, or pixel noise comes on top of it.
        """
        name = family.transform.name
        fix = "use monte_carlo=paper or monte_carlo=sequential (exhaustive=False)"
        if not family.transform.resolvable:
            raise UserError(
                f"monte_carlo=exhaustive: {family.transform!r} is only approximately resolvable, so it is never "
                "certified; use padding=cyclic"
            )
        if family.pixel_noise > 0:
            raise UserError(
                f"monte_carlo=exhaustive: pixel_noise={family.pixel_noise:g} has a continuous law, which cannot be "
                f"visited; set pixel_noise=0, or {fix}"
            )
        torus = family.torus
        if not torus and family.transform.integer_parameters:
            raise UserError(
                f"monte_carlo=exhaustive: without image_size=(H, W) the shifts of {name} live on the plane, where "
                f"there is no end of them; give it, or {fix}"
            )
        for parameter in family.parameters:
            if parameter not in torus:
                raise UserError(
                    f"monte_carlo=exhaustive: {parameter} of {name} has a continuous law, which cannot be visited; "
                    f"only translations on the torus can: {fix}"
                )
        shifts = math.prod(torus[parameter] for parameter in family.parameters)
        if shifts > _MOST:
            raise UserError(
                f"monte_carlo=exhaustive: image_size={list(family.image_size or ())} has {shifts} shifts, more than "
                f"the {_MOST} that can be visited; {fix}"
            )
        # The last parameter varies slowest: (tx, ty) in the order of the pixels, row by row.
        axes = [cyclic_masses(family.laws[parameter], torus[parameter]) for parameter in family.parameters]
        masses, points = np.ones(1), np.zeros((1, 0))
        for mass in axes:
            half = len(mass) // 2
            moves = (np.arange(len(mass), dtype=np.float64) + half) % len(mass) - half  # the short way round
            points = np.concatenate([np.tile(points, (len(mass), 1)), np.repeat(moves, len(points))[:, None]], axis=1)
            masses = (mass[:, None] * masses).reshape(-1)
        weights = np.floor(masses * _UNITS).astype(np.int64)
        order = np.argsort(-(weights >> _TIE_BITS), kind="stable")
        order = order[weights[order] > 0]
        slack = sum(cyclic_error(family.laws[name], torus[name]) for name in family.parameters)
        # Products of masses, and the conversion of sums to float64, err by a few units in the last place.
        return cls(points[order], weights[order], slack + 2.0**-50)

    @cached_property
    def cumulative(self) -> np.ndarray:
        """(m + 1,) int64: mass of the first 0, 1, …, m shifts."""
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.weights)])

    def lower(self, mass: int) -> float:
        """The probability that ``mass`` units prove, rounded down."""
        return max(0.0, math.nextafter(int(mass) / _UNITS - self.slack, -1.0))

    def needed(self, h_min: float) -> int | None:
        """Fewest units whose probability is above ``h_min``; None when even all of them are not."""
        low, high = 0, int(self.cumulative[-1])
        if self.lower(high) <= h_min:
            return None
        while high - low > 1:  # `high` is always enough, `low` never
            middle = (low + high) // 2
            if self.lower(middle) > h_min:
                high = middle
            else:
                low = middle
        return high
