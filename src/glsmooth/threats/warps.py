"""The threats: bilinear rotation and scaling about the centre of an image, with zeros outside of it."""

from __future__ import annotations

from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.threats.base import Threat
from glsmooth.threats.motions import Turn, Zoom, pixels
from glsmooth.threats.nearby import allowances

__all__ = ["Rotation", "Scaling"]


class Rotation(Threat):
    """Rotation by ``angle`` degrees, counter-clockwise as images are seen.

    Args:
        mask: ``"disk"`` keeps the pixels of the inscribed disk, whose sources never leave the image, and sets all
            others to 0; None keeps all.
        round8, l2: as :class:`Threat`.
    """

    name = "rotation"
    parameter = "angle"
    identity = 0.0
    motion = Turn()

    mask: str | None

    def __init__(self, mask: str | None = None, round8: bool = False, l2: float = 0.0) -> None:
        if mask not in (None, "disk"):
            raise UserError(f"mask={mask!r} is unknown; give 'disk' or None")
        self._fill(mask=mask, **allowances(round8, l2))

    def check(self, beta: Tensor) -> None:
        wrong = ~(beta.abs() <= 360)
        if bool(wrong.any()):
            raise UserError(f"angle={float(beta[wrong].flatten()[0]):g} must be within a turn; give one in [-360, 360]")

    def kept(self, height: int, width: int) -> Tensor:
        if self.mask is None:
            return super().kept(height, width)
        radius: Tensor = pixels(height, width).norm(dim=-1)
        return (radius <= (min(height, width) - 1) / 2).view(height, width)

    def __repr__(self) -> str:
        return f"Rotation(mask={self.mask!r}, round8={self.round8}, l2={self.l2:g})"


class Scaling(Threat):
    """Scaling by the factor ``scale``: above 1 the image grows and loses its border, below 1 it gets a black one.

    Args:
        round8, l2: as :class:`Threat`.
    """

    name = "scaling"
    parameter = "scale"
    identity = 1.0
    motion = Zoom()

    def __init__(self, round8: bool = False, l2: float = 0.0) -> None:
        self._fill(**allowances(round8, l2))

    def check(self, beta: Tensor) -> None:
        wrong = ~((beta >= 0.01) & (beta <= 100))
        if bool(wrong.any()):
            raise UserError(f"scale={float(beta[wrong].flatten()[0]):g} is not a scale; give one in [0.01, 100]")

    def __repr__(self) -> str:
        return f"Scaling(round8={self.round8}, l2={self.l2:g})"
