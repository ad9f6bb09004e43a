"""What every bound shares: what it says of a region, and the comparison that certifies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws.checks import density_error

__all__ = ["NotApplicable", "Outcome", "exceeds", "own_laws_error"]


class NotApplicable(UserError):
    """The method has no statement about this family or region; the message says why."""


@overload
def exceeds(p_lower: float, h_min: float) -> bool: ...


@overload
def exceeds(p_lower: NDArray[np.float64], h_min: float | NDArray[np.float64]) -> NDArray[np.bool_]: ...


def exceeds(p_lower: Any, h_min: Any) -> Any:
    """p_A > h_min, strictly: the comparison in which votes and bounds meet.

    Args:
        p_lower: lower confidence bound of a class's probability, or an array of them.
        h_min: required probability, or an array that broadcasts with ``p_lower``.
    """
    return p_lower > h_min


@dataclass(frozen=True)
class Outcome:
    """What a method says of a family and a region.

    Attributes:
        h_min: the required probability, in [1/2, 1]: a smoothed class probability strictly above it certifies the
            region; 1.0 means that nothing can be certified. Rounded up. None where the method does not apply.
        worst: the parameter where the bound is largest (the worst one found), or None.
        method: name of the method.
        sound: False for estimates, for the paper's printed procedure and for transformations that are only
            approximately resolvable; those never count as certified.
        failure_probability: α_b, the probability that h_min is too small, where samples entered it; 0 otherwise.
        argument: why the value covers every β of the region; why there is none where the method does not apply.
        residual: how far the transformation is from resolvable, where that is why it is not sound; else None.
    """

    h_min: float | None
    worst: Mapping[str, float] | None
    method: str
    sound: bool = True
    failure_probability: float = 0.0
    argument: str = ""
    residual: float | None = None

    def __post_init__(self) -> None:
        if self.worst is not None:  # a copy: the original may belong to a cache
            object.__setattr__(self, "worst", dict(self.worst))

    @overload
    def certifies(self, p_lower: float) -> bool: ...

    @overload
    def certifies(self, p_lower: NDArray[np.float64]) -> NDArray[np.bool_]: ...

    def certifies(self, p_lower: Any) -> Any:
        """Is the region certified for a class with this lower bound of its probability (or each of these)?"""
        return self.claims(p_lower) & self.sound

    @overload
    def claims(self, p_lower: float) -> bool: ...

    @overload
    def claims(self, p_lower: NDArray[np.float64]) -> NDArray[np.bool_]: ...

    def claims(self, p_lower: Any) -> Any:
        """The same comparison whether or not the method is sound: what it would have certified."""
        return exceeds(p_lower, np.inf if self.h_min is None else self.h_min)

    def approximate(self, residual: float, why: str) -> Outcome:
        """The same for a transformation that is not resolvable as it says: nothing is certified."""
        return self if self.h_min is None else replace(self, sound=False, residual=residual, argument=why)


def own_laws_error(family: SmoothedFamily) -> float:
    """What a sampled h_min may be short of, since draws and densities of users' own laws may differ.

    By e in total variation: h_min then by e, and by the slope of N⁻¹ at 1/2, which is at most 2, times e.
    """
    return 3 * sum(density_error(law) for law in family.laws.values())
