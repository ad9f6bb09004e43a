"""Draws on a fixed grid: every probability is a known integer, and every shift of the grid is exact.

Floating point cannot draw from a continuous law; it draws from some law on the floats, near it. On a grid that law is
one that we know. The real line is cut into cells of one width (for a rescaling: the line of log2), a parameter is the
middle of its cell, and a cell's probability is that of the law, rounded to a multiple of 2^-52. Two facts make such
draws as good as continuous ones, for every β that is a whole number of cells away from the identity:

* to round to cells is post-processing of the observed parameter that commutes with β, so that the rounded law and the
  one moved by β are never easier to tell apart than the continuous ones;
* the law that is drawn differs from the rounded one by at most ε in total variation, and likewise when both are moved.

So for every classifier h(β) >= N(h(β₀) - ε) - ε, N the trade-off function of the continuous laws. N⁻¹ is concave and at
least 0, so its slope at 1/2 is at most 2 N⁻¹(1/2) <= 2, and h_min grows by 3ε at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.laws import Law
from glsmooth.laws.checks import cdf_error, is_own, largest_place

__all__ = ["ALLOWANCE", "Grid"]

#: What h_min grows by at most, with laws of our own; ``runs/verify.py`` knows the same number.
ALLOWANCE = 1e-7
_UNITS = 2**52  # of a probability of 1: as many uniforms there are
_FINE = 2.0**-9  # width of a cell, relative to the law's spread, or less
_MOST = 2**18  # cells
_AXES = 5  # parameters that share the allowance, at most
_COARSE = 2.0**-4  # a law whose tails make cells wider than this is refused


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid of one parameter, and the probabilities on it.

    Attributes:
        width: of a cell; a power of two, and 1 for shifts of whole pixels.
        first: number of the first cell.
        below: (cells,) int64, the mass of all cells up to this one, in units of 2^-52.
        log: is it a grid of log2 of the parameter?
        whole: are the values whole numbers, and cells around them?
        error: ε, how far these probabilities are from the law's, in total variation.
    """

    width: float
    first: int
    below: Tensor
    log: bool
    whole: bool
    error: float

    @classmethod
    def of(cls, name: str, law: Law, log: bool, whole: bool, cycle: int | None) -> Grid:
        """The grid for a law.

        Args:
            name: of the parameter, for messages.
            log: the parameter rescales.
            whole: it is rounded to whole numbers.
            cycle: length of the cycle of a law on one.

        Raises:
            UserError: the law has no grid that is fine beside its spread, or is too narrow beside its distance from 0.
        """
        return _cached(name, law, log, whole, cycle if law.cyclic else None)

    def values(self, u: Tensor) -> Tensor:
        """Parameters of uniforms in (0, 1), of which the first 52 bits count; float64, same shape."""
        units = (u * _UNITS).to(torch.int64)
        cell = self.first + torch.searchsorted(self.below.to(u.device), units.contiguous(), right=True)
        place = cell.to(torch.float64) * self.width if self.whole else (cell.to(torch.float64) + 0.5) * self.width
        return torch.exp2(place) if self.log else place

    def nearest(self, beta: float) -> float:
        """The parameter of a certificate that is nearest to ``beta``."""
        steps = round((math.log2(beta) if self.log else beta) / self.width)
        place = steps * self.width
        return 2.0**place if self.log else place

    def __str__(self) -> str:
        """The parameters that a certificate speaks of."""
        width = f"{self.width:.0f}" if self.width >= 1 else f"1/{1 / self.width:.0f}"
        return f"powers of 2^({width})" if self.log else f"multiples of {width}"


@lru_cache(maxsize=256)
def _cached(name: str, law: Law, log: bool, whole: bool, cycle: int | None) -> Grid:
    if cycle is not None:
        below = torch.tensor([(_UNITS * (i + 1) + cycle // 2) // cycle for i in range(cycle)])
        return Grid(1.0, 0, below, log, whole, cycle * 2.0**-53)
    levels = torch.tensor([2.0**-53, 0.15865525393145707, 0.8413447460685429, 1 - 2.0**-53], dtype=torch.float64)
    low, left, right, high = (torch.log2(law.icdf(levels)) if log else law.icdf(levels)).tolist()
    spread = (right - left) / 2
    width = 1.0 if whole else 2.0 ** math.floor(math.log2(max(spread * _FINE, (high - low) / (_MOST / 2))))
    start = 0.5 if whole else 0.0  # cells of whole numbers lie around them
    first, last = math.floor(low / width + start), math.floor(high / width + start)
    if last - first >= _MOST or (not whole and width > spread * _COARSE):
        raise UserError(f"draws=grid: the tails of {name}={law!r} reach too far for a fine grid; use draws=continuous")
    ends = (torch.arange(first + 1, last + 2, dtype=torch.float64) - start) * width
    places = torch.exp2(ends) if log else ends
    share = law.cdf(places).numpy()
    below = np.rint(np.maximum.accumulate(np.clip(share, 0.0, 1.0)) * _UNITS).astype(np.int64)
    below[-1] = _UNITS
    # Rounding to units, at most one beyond either end of the line; the distribution function; places of powers of two.
    each = 2.0**-52 + cdf_error(law) + (2.0**-51 * largest_place(law) if log else 0.0)
    error = len(below) * each
    if not is_own(law) and 3 * error > ALLOWANCE / _AXES:
        raise UserError(f"draws=grid: {name}={law!r} is too narrow for exact probabilities; use draws=continuous")
    return Grid(width, first, torch.from_numpy(below), log, whole, error)
