"""What every bound shares: the result for a region, and the refusal."""

from __future__ import annotations

from dataclasses import dataclass

from glsmooth.bounds.confidence import samples_needed
from glsmooth.errors import UserError

__all__ = ["NotApplicable", "RegionBound", "samples_needed"]


class NotApplicable(UserError):
    """The method has no statement about this family or region; the message says why."""


@dataclass(frozen=True)
class RegionBound:
    """The required probability for a whole region.

    Attributes:
        h_min: in [1/2, 1]; a smoothed class probability strictly above it certifies the region; 1.0 means that
            nothing can be certified. Rounded up.
        worst: the parameter where the bound is largest (the worst one found), or None.
        method: name of the method.
        sound: False for estimates and for the paper's printed procedure; those never count as certified.
        failure_probability: α_b, the probability that h_min is too small, where samples entered it; 0 otherwise.
        argument: why the value covers every β of the region.
    """

    h_min: float
    worst: dict[str, float] | None
    method: str
    sound: bool = True
    failure_probability: float = 0.0
    argument: str = ""

    def __post_init__(self) -> None:
        if self.worst is not None:  # a copy: the original may belong to a cache
            object.__setattr__(self, "worst", dict(self.worst))
