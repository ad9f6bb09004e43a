"""A region as a search sees it: a unit cube whose points are parameters inside the region, and nothing else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.sizes import multiplicative
from glsmooth.family.smoothed import SmoothedFamily

__all__ = ["Space"]

#: Of more parameters than these not all corners are listed.
_CORNERS = 6
#: A whole shift may be outside a ball by rounding alone.
_ROUNDING = 1e-9
#: The least value of a positive parameter.
_LEAST = 1e-3


class Space:
    """The unit cube [0, 1]^k over a region of a family, k its parameters that vary.

    In a box a coordinate runs from one end of an interval to the other, in the logarithm where a parameter multiplies.
    In a ball the cube's ball is the region, and what lies beyond it in the cube is drawn back to its surface. Listed
    points have no coordinates: they are tried one by one.

    Parameters that the action rounds are whole numbers inside the region: beyond it nothing is promised.

    Args:
        family: transformation, laws and torus.
        region: one that the family takes.

    Raises:
        UserError: the region holds no whole shift.
    """

    def __init__(self, family: SmoothedFamily, region: Region) -> None:
        transform = family.transform
        self.region, self.names = region, transform.parameters
        self.identity = transform.identity.double()
        self._listed: Tensor | None = None
        box = region.box(family.identity).intervals
        self._columns = [i for i, name in enumerate(self.names) if name in box]
        whole = [self.names[i] in transform.integer_parameters for i in self._columns]
        self._whole = torch.tensor(whole, dtype=torch.bool)
        self._log = torch.tensor([multiplicative(transform, name) for name in self.names], dtype=torch.bool)
        self._lowest = torch.tensor([transform.domain(name).low for name in self.names], dtype=torch.float64)
        ends = torch.tensor([box[self.names[i]] for i in self._columns], dtype=torch.float64)
        self._low, self._high = ends[:, 0].clone(), ends[:, 1].clone()
        if isinstance(region, Points):
            rows = [[point.get(name, family.identity[name]) for name in self.names] for point in region.points]
            self._listed = torch.tensor(rows, dtype=torch.float64)
            return
        # A box on the torus means the whole shifts inside it; on the plane, what its values are rounded to.
        inwards = bool(family.torus) or isinstance(region, Ball)
        for i, column in enumerate(self._columns):
            if not self._whole[i]:
                continue
            low, high = float(self._low[i]), float(self._high[i])
            low, high = (
                (math.ceil(low), math.floor(high)) if inwards else (math.floor(low + 0.5), math.floor(high + 0.5))
            )
            if low > high:
                raise UserError(f"{self.names[column]}: the region holds no whole number of pixels; make it larger")
            if not isinstance(region, Ball):
                self._low[i], self._high[i] = low, high
        self._in_log = self._log[self._columns] & (not isinstance(region, Ball))

    @property
    def dimensions(self) -> int:
        """Coordinates that a search can move along; 0 of listed points."""
        return 0 if self._listed is not None else len(self._columns)

    def parameters(self, u: Tensor) -> Tensor:
        """Points u (…, k) of the cube -> β (…, d) float64, differentiable where β is no whole number."""
        u = u.double().clamp(0.0, 1.0)
        if isinstance(self.region, Ball):
            values = self._in_ball(2 * u - 1)
        else:
            low, high = self._low, self._high
            values = (1 - u) * low + u * high
            if bool(self._in_log.any()):
                safe = torch.where(self._in_log, low, 1.0), torch.where(self._in_log, high, 1.0)
                powers = safe[0] ** (1 - u) * safe[1] ** u
                values = torch.where(self._in_log, powers, values)
            values = torch.where(self._whole, torch.floor(values + 0.5), values)
            # Rounding of a power must not leave the interval.
            values = torch.minimum(torch.maximum(values, low), high)
        beta = self.identity.expand(*u.shape[:-1], len(self.names)).clone()
        beta[..., self._columns] = values
        return beta

    def _in_ball(self, v: Tensor) -> Tensor:
        assert isinstance(self.region, Ball)
        centre = torch.tensor([self.region.centre[self.names[i]] for i in self._columns], dtype=torch.float64)
        length = v.norm(dim=-1, keepdim=True)
        offset = self.region.radius * torch.where(length > 1, v / length.clamp_min(1e-300), v)
        # The surface itself, without what rounding adds to it.
        offset = offset * (1 - 1e-15)
        values = centre + offset
        if bool(self._whole.any()):
            # To the nearest whole shift, or where that is outside to the next one towards the centre.
            inner = torch.where(offset >= 0, torch.floor(values), torch.ceil(values))
            nearest = torch.floor(values + 0.5)
            outside = (torch.where(self._whole, nearest, values) - centre).norm(dim=-1, keepdim=True)
            far = outside > self.region.radius + _ROUNDING
            values = torch.where(self._whole, torch.where(far, inner, nearest), values)
        return values

    def corners(self) -> Tensor:
        """Corners of a box and the middles of its faces; of a ball what lies there; all listed points: β (n, d)."""
        if self._listed is not None:
            return self._listed
        k = self.dimensions
        ends = itertools.product((0.0, 1.0), repeat=min(k, _CORNERS))
        found = [(*corner, *([0.5] * (k - len(corner)))) for corner in ends]
        found += [tuple(0.5 if j != i else end for j in range(k)) for i in range(k) for end in (0.0, 1.0)]
        return _different(self.parameters(torch.tensor(found, dtype=torch.float64)))

    def grid(self, points: int) -> Tensor:
        """A regular grid of about so many parameters, (n, d); none of a list of points."""
        k = self.dimensions
        if not k:
            return self.corners()[:0]
        a_side = max(2, round(points ** (1 / k)))
        if a_side**k > 4 * max(points, 1):
            return self.corners()[:0]
        ticks = torch.linspace(0.0, 1.0, a_side, dtype=torch.float64)
        return _different(self.parameters(torch.cartesian_prod(*[ticks] * k).reshape(-1, k)))

    def random(self, points: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Points (n, k) of the cube, at random."""
        return rng.random((points, self.dimensions))

    def cube(self, beta: Sequence[float]) -> NDArray[np.float64]:
        """The point (k,) of the cube of a parameter (d,): :meth:`parameters` gives it again, but for rounding."""
        values = torch.tensor([beta[i] for i in self._columns], dtype=torch.float64)
        if isinstance(self.region, Ball):
            centre = torch.tensor([self.region.centre[self.names[i]] for i in self._columns], dtype=torch.float64)
            u = 0.5 + 0.5 * (values - centre) / max(self.region.radius, 1e-300)
        else:
            low, high = self._low, self._high
            low, high, values = (
                torch.where(self._in_log, one.clamp_min(1e-300).log(), one) for one in (low, high, values)
            )
            u = torch.where(high > low, (values - low) / torch.where(high > low, high - low, 1.0), 0.5)
        return np.asarray(u.clamp(0.0, 1.0).numpy())

    def contains(self, beta: Tensor) -> bool:
        """Is β (d,) in the region, and nowhere else?"""
        values = dict(zip(self.names, beta.tolist(), strict=True))
        if isinstance(self.region, Points):
            listed = self._listed
            assert listed is not None
            return bool((listed == beta).all(dim=1).any())
        stays = all(
            value == float(self.identity[i])
            for i, (name, value) in enumerate(values.items())
            if name not in self.region.parameters
        )
        return stays and self.region.contains(values)

    # Sizes: the region scaled around the identity, as glsmooth.family.sizes.scaled does it.

    @property
    def has_sizes(self) -> bool:
        """Do the scaled regions lie in each other, with the identity inside all of them?"""
        if self._listed is not None:
            return False
        identity = self.identity[self._columns]
        if isinstance(self.region, Ball):
            return all(self.region.centre[self.names[i]] == float(self.identity[i]) for i in self._columns)
        inside = (self._low <= identity) & (identity <= self._high)
        return bool(inside.all()) and bool((self._low < self._high).any())

    def size(self, beta: Tensor) -> float:
        """The smallest s for which the region of size s holds β (d,); infinity where none does."""
        if isinstance(self.region, Ball):
            distance = float((beta - self.identity).norm())
            return distance / self.region.radius if self.region.radius else (0.0 if distance == 0 else math.inf)
        assert isinstance(self.region, Box)
        size = 0.0
        for name, value in zip(self.names, beta.tolist(), strict=True):
            i = self.names.index(name)
            identity, log = float(self.identity[i]), bool(self._log[i])
            low, high = self.region.intervals.get(name, (identity, identity))
            end = high if value > identity else low
            far, reach = (
                (math.log(value / identity), math.log(end / identity)) if log else (value - identity, end - identity)
            )
            if far != 0:
                size = max(size, far / reach if reach else math.inf)
        return size

    def outward(self, beta: Tensor, sizes: Tensor) -> Tensor:
        """β (n, d) moved so that its size becomes sizes (n,) times what it was; whole where the action rounds.

        What would leave a parameter's domain ends there.
        """
        log = self._log & (not isinstance(self.region, Ball))
        moved = self.identity + sizes[:, None] * (beta - self.identity)
        base = torch.where(log, beta / torch.where(log, self.identity, 1.0), 1.0)
        moved = torch.where(log, self.identity * base ** sizes[:, None], moved)
        moved = torch.maximum(moved, torch.where(self._log, _LEAST, self._lowest))
        whole = torch.zeros(len(self.names), dtype=torch.bool)
        whole[self._columns] = self._whole
        # Towards the identity, so that no size is passed.
        inner = torch.where(moved >= self.identity, torch.floor(moved + _ROUNDING), torch.ceil(moved - _ROUNDING))
        return torch.where(whole, inner, moved)


def _different(beta: Tensor) -> Tensor:
    """Rows without repetitions, in their order."""
    seen: dict[tuple[float, ...], None] = dict.fromkeys(map(tuple, beta.tolist()))
    return torch.tensor(list(seen), dtype=torch.float64).reshape(-1, beta.shape[1])
