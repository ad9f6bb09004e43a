"""What every bound shares: what it says of a region, and the comparison that certifies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["NotApplicable", "Outcome", "exceeds"]

P = TypeVar("P", float, NDArray[np.float64])


class NotApplicable(ValueError):
    """The method has no statement about this family or region; the message says why."""


def exceeds(p_lower: P, h_min: float | NDArray[np.float64]) -> bool | NDArray[np.bool_]:
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

    def certifies(self, p_lower: P) -> bool | NDArray[np.bool_]:
        """Is the region certified for a class with this lower bound of its probability (or each of these)?"""
        return self.claims(p_lower) & self.sound

    def claims(self, p_lower: P) -> bool | NDArray[np.bool_]:
        """The same comparison whether or not the method is sound: what it would have certified."""
        return exceeds(p_lower, np.inf if self.h_min is None else self.h_min)

    def approximate(self, residual: float, why: str) -> Outcome:
        """The same for a transformation that is not resolvable as it says: nothing is certified."""
        return self if self.h_min is None else replace(self, sound=False, residual=residual, argument=why)
