"""Threats: what an attacker really does to an image, and how far that leads from a reference at most.

A rotated or scaled image is interpolated, cropped and rounded: no resolving function describes it exactly. With pixel
noise it can be certified all the same, by the distance of what is done from what can be resolved, or from one fixed
image (:func:`glsmooth.bounds.residual_alone`).
"""

from glsmooth.threats.base import Residual, Slices, Threat
from glsmooth.threats.nearby import Nearby
from glsmooth.threats.warps import Rotation, Scaling

#: Those that warp images, by name.
BUILTIN: dict[str, type[Threat]] = {threat.name: threat for threat in (Rotation, Scaling)}

__all__ = ["BUILTIN", "Nearby", "Residual", "Rotation", "Scaling", "Slices", "Threat"]
