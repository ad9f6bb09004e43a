"""One image under a threat, for pictures of how it is certified: where the attacked images lie, and their references.

References and residuals are those that a certificate uses; the distances between are of images attacked at many
parameters, without the perturbation that a threat may allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.threats import Slices, Threat
from glsmooth.voting.images import as_image

__all__ = ["Attacked", "Projection", "Reference"]

Array = NDArray[np.float64]

#: Slices that are still told from each other.
_MOST_SLICES = 100
#: Attacked images along the interval, at least, and in each slice.
_ALONG, _WITHIN = 400, 17


@dataclass(frozen=True, eq=False)
class Reference:
    """A point (C, H, W), and the proved residual of an interval."""

    image: Tensor
    residual: float


@dataclass(frozen=True, eq=False)
class Attacked:
    """An image attacked at all parameters of an interval.

    Attributes:
        image: (C, H, W).
        identity: the image itself, or what the threat's mask leaves of it, as reference of the whole interval.
        centre: of the smallest ball around the whole interval, likewise.
        slices: the interval cut.
    """

    threat: Threat
    image: Tensor
    low: float
    high: float
    identity: Reference
    centre: Reference
    slices: Slices

    @classmethod
    def of(cls, image: Tensor | NDArray[Any], threat: Threat, low: float, high: float, residual: float) -> Attacked:
        """Cut the interval into slices of at most this residual.

        Raises:
            UserError: an image, a threat, an interval or a residual that does not fit.
        """
        if not isinstance(threat, Threat):
            raise UserError(f"threat={threat!r}: give one with its options, such as gs.threats.Rotation(mask='disk')")
        image = as_image(image, "image").detach().cpu()
        low, high, residual = _number("low", low), _number("high", high), _number("residual", residual)
        if low == high:
            raise UserError(f"low={low:g} and high={high:g} leave nothing to draw; give low < high")
        length = float(threat.length(image[None], low, high))
        if length < 1e-6:
            raise UserError(
                f"image: it is the same at every {threat.parameter} from {low:g} to {high:g}; give one that changes"
            )
        room = residual - threat.least_residual(image, low, high)
        if 0 < 2 * room * _MOST_SLICES < length:
            raise UserError(
                f"residual={residual:g} makes about {length / (2 * room):.0f} slices, too many to draw; give for "
                f"example residual={residual - room + length / _MOST_SLICES:.2g}"
            )
        slices = threat.slices(image, low, high, residual)
        references = torch.stack(
            (threat.warp(image[None], threat.identity)[0], threat.centre(image[None], low, high)[0])
        )
        both = threat.residual(image.expand(2, -1, -1, -1), references, low, high).upper.tolist()
        identity, centre = (Reference(v, e) for v, e in zip(references, both, strict=True))
        return cls(threat, image, low, high, identity, centre, slices)

    def at(self, beta: Array) -> Tensor:
        """Attacked images (K, C, H, W) at the parameters (K,)."""
        return self.threat.apply(self.image.expand(len(beta), -1, -1, -1), torch.from_numpy(beta))

    def distances(self) -> tuple[Array, Array, Array, Array]:
        """Parameters, (K, P) for K slices, and the distances there from the image, the centre and each own reference.

        Both ends of a slice are among its parameters.
        """
        edges, count = self.slices.edges.numpy(), len(self.slices)
        beta = np.linspace(edges[:-1], edges[1:], max(_WITHIN, math.ceil(_ALONG / count)), axis=1)
        found = np.empty((3, *beta.shape))
        for k, own in enumerate(self.slices.references):
            attacked = self.at(beta[k])
            for row, reference in enumerate((self.identity.image, self.centre.image, own)):
                found[row, k] = (attacked - reference).double().flatten(1).norm(dim=1)
        return beta, found[0], found[1], found[2]

    def projection(self) -> Projection:
        """Attacked images and references in the plane of the two directions in which most of the curve lies."""
        origin = self.centre.image.double().flatten()
        curve = self.at(np.linspace(self.low, self.high, _ALONG + 1)).double()
        moved = (curve - curve.mean(0)).flatten(1)
        _, sizes, directions = torch.linalg.svd(moved, full_matrices=False)
        axes = torch.zeros(2, moved.shape[1], dtype=torch.float64)
        axes[: len(directions[:2])] = directions[:2]  # an image of one pixel has one direction
        share = float(sizes[:2].square().sum() / sizes.square().sum())

        def placed(images: Tensor) -> Array:
            return np.asarray((images.double().flatten(1) - origin) @ axes.T)

        points = placed(curve)
        # A direction has no sign of its own: the interval leads to the right, and upwards.
        turn = np.where(points[-1] < points[0], -1.0, 1.0)
        return Projection(
            turn * points,
            turn * placed(self.identity.image[None])[0],
            turn * placed(self.slices.references),
            share,
        )


@dataclass(frozen=True, eq=False)
class Projection:
    """Coordinates in the space of images, from the centre of the whole interval's ball; distances are shortened.

    Attributes:
        curve: (K, 2), images attacked at parameters that are evenly spread.
        identity: (2,), the image itself; ``references``: (slices, 2).
        share: of the curve's variance in the plane.
    """

    curve: Array
    identity: Array
    references: Array
    share: float


def _number(name: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name}={value!r} must be a number") from None
