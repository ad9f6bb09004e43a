"""What ends near the transformed image, whatever the transformation: rounding to 8 bits, a perturbation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from glsmooth.errors import UserError
from glsmooth.laws.immutable import Immutable

__all__ = ["Nearby", "allowances"]


def allowances(round8: object, l2: object) -> dict[str, object]:
    """The two fields of every threat, checked.

    Raises:
        UserError: no flag, or no number.
    """
    if not isinstance(round8, bool):
        raise UserError(f"round8={round8!r} must be True or False")
    try:
        radius = float(l2)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        radius = math.nan
    if not (math.isfinite(radius) and radius >= 0):
        raise UserError(f"l2={l2!r} must be a finite number >= 0; give for example l2=0.05")
    return {"round8": round8, "l2": radius}


class Nearby(Immutable):
    """The transformed image is perturbed, or saved with 8 bits, and the classifier gets that.

    Args:
        round8: each number is rounded to the nearest multiple of 1/255, before the perturbation or after it. Clipping
            to [0, 1] is covered where the transformed image lies in it.
        l2: largest l2 norm of the perturbation.

    Raises:
        UserError: no flag, no number, or neither of the two.
    """

    round8: bool
    l2: float

    def __init__(self, round8: bool = False, l2: float = 0.0) -> None:
        self._fill(**allowances(round8, l2))
        if not (self.round8 or self.l2):
            raise UserError("round8=False, l2=0: nothing is done to the image; give one of the two")

    @property
    def name(self) -> str:
        """What is done, in words."""
        return " and ".join([*(["8 bits"] if self.round8 else []), *(["l2 perturbation"] if self.l2 else [])])

    def residual(self, shape: Sequence[int]) -> float:
        """How far images of a shape (C, H, W) are led at most: l2 + √d/510, in the units of a pixel. Rounded up."""
        if not self.round8:
            return self.l2
        return (self.l2 + math.sqrt(math.prod(shape)) / 510) * (1 + 1e-12)

    def __repr__(self) -> str:
        return f"Nearby(round8={self.round8}, l2={self.l2:g})"
