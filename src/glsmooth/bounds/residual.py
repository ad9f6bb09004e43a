"""Votes near the image: what an attack differs from a resolvable transformation by, paid for by pixel noise.

The smoothed classifier adds noise N(0, σ²) to each pixel after the transformation Ψ, and its votes were counted at one
reference v. The attacked image v′ is not Ψ(v, β), but within a *residual* e of it. A base classifier that sees the sum,
and never the draw α, is one test between two joint experiments: θ ~ μ_β₀ with g ~ N(0, 1), and θ ~ μ_β with
g ~ N(D(α), 1), where D(α) is the length of Ψ(v′, α) - Ψ(Ψ(v, β), α) over σ. (Given θ and α, turn the noise such that g
is its coordinate along that difference.) So Neyman–Pearson of the joint experiment is the required probability, and it
rises with D, for which an upper bound will do.

* Ψ that does nothing, or a group of isometries under its uniform law: Φ(e/σ), whatever the parameter.
* Isometries and contractions (brightness, cyclic translation, blur): D = e/σ, a normal shift beside the others.
* Contrast multiplies the residual by its draw: D = α_c e/σ. It is to the contrast what the brightness of c·x + b is,
  and merges with that brightness where its law is normal, √(b² + (σ_b e/σ)²). In c·(x + b) it stands beside the
  brightness.
* Power laws have no Lipschitz constant.

Each is a family like those that other bounds know, with one parameter more, or another brightness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

import numpy as np
from scipy.special import ndtr
from torch import Tensor

from glsmooth.bounds.base import NotApplicable
from glsmooth.bounds.confidence import samples_needed
from glsmooth.bounds.neyman_pearson import ShiftThenScaleBeside
from glsmooth.bounds.tradeoffs import Gaussian
from glsmooth.errors import UserError
from glsmooth.family.regions import Box, Points, Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import Law, Normal
from glsmooth.threats import Nearby
from glsmooth.transforms import (
    BUILTIN,
    Brightness,
    Composition,
    Contrast,
    ContrastBrightness,
    GaussianBlur,
    Identity,
    ResolvableTransform,
    Translation,
)
from glsmooth.transforms.factors import Factor, Scale, ScaleThenShift, Shift, ShiftThenScale

__all__ = ["Joint", "best_residual", "joint", "residual_alone", "residual_of"]

#: The parameter that stands for e/σ.
RESIDUAL = "residual"
STANDARD_NORMAL = Normal(0.0, 1.0)


def residual_alone(residual: float, sigma: float) -> float:
    """Required probability Φ(e/σ) where nothing but the noise covers an attack; rounded up, 1/2 at least.

    Also that of a group of isometries under its uniform law, whatever its parameter.

    Args:
        residual: e, an upper bound of the attacked images' l2 distance from the reference at which votes are counted
            (:meth:`glsmooth.threats.Threat.residual`).
        sigma: standard deviation of the noise, in the units of a pixel.
    """
    return max(0.5, Gaussian(_size(residual, sigma)).inverse(0.5))


def _size(residual: float, sigma: float, name: str = RESIDUAL) -> float:
    if not (math.isfinite(residual) and residual >= 0):
        raise UserError(f"{name}={residual} must be a finite number >= 0")
    if not (math.isfinite(sigma) and sigma > 0):
        raise UserError(f"sigma={sigma} must be a finite number above 0; a residual is covered by pixel noise alone")
    return residual / sigma * (1 + 1e-15)


def residual_of(family: SmoothedFamily) -> float:
    """What the pixel noise of a family with a threat has to pay for.

    Raises:
        UserError: it depends on the size of the images, and nobody has said it.
    """
    if family.residual is None:
        assert isinstance(family.threat, Nearby)
        raise UserError(
            f"residual is missing: what {family.threat!r} leads to depends on the size of images; give the threat's "
            f"residual of their shape, {family.threat.residual((3, 32, 32)):.4g} for 3 x 32 x 32 numbers"
        )
    return family.residual


def best_residual(sigma: float, alpha: float, least: float = 0.0) -> float:
    """The residual of slices for which a long curve needs the fewest votes, if all votes agree.

    A curve of length Λ needs Λ/(2(e - ``least``)) slices with a residual of e, and each of them ln α / ln Φ(e/σ) votes.
    Without ``least`` that is best at about 0.68 σ.

    Args:
        sigma: standard deviation of the noise, in the units of a pixel.
        alpha: failure probability of an image's certificate. Every slice may use all of it, where the one claim is of
            all slices together.
        least: what comes on top of each slice's residual, however short it is: rounding, perturbation.

    Raises:
        UserError: no probability, no noise, or more to pay for than votes can show.
    """
    samples_needed(0.5, alpha)  # refuses what is no failure probability
    rest = _size(least, sigma, "least")
    room = np.geomspace(1e-3, 4, 4000)
    with np.errstate(divide="ignore"):
        votes = np.floor(math.log(alpha) / np.log(np.minimum(ndtr(room + rest), 1 - 1e-16))) + 1
    best = float(room[(votes / room).argmin()] + rest) * sigma
    if samples_needed(residual_alone(best, sigma), alpha) is None:
        raise UserError(f"least={least:g} is more than votes can show with sigma={sigma:g}; give more noise")
    return best


class _Beside(ResolvableTransform):
    """What bounds see of a transformation with a residual. It is applied to no image."""

    name = "with_residual"

    def __init__(self, factors: tuple[Factor, ...]) -> None:
        self.factors = factors
        self.parameters = tuple(name for factor in factors for name in factor.parameters)

    def apply(self, images: Tensor, theta: Tensor) -> NoReturn:
        raise NotImplementedError("it stands for a transformation beside a residual in bounds alone")


@dataclass(frozen=True)
class Joint:
    """A family and a region whose required probability is that of another family and region with a residual."""

    family: SmoothedFamily
    region: Region
    _brightness: Mapping[float, float]

    def original(self, beta: Mapping[str, float]) -> dict[str, float]:
        """A parameter of the joint family as one of the original."""
        kept = {name: value for name, value in beta.items() if name != RESIDUAL}
        if "brightness" in kept:
            kept["brightness"] = self._brightness.get(kept["brightness"], kept["brightness"])
        return kept


def joint(family: SmoothedFamily, region: Region, residual: float) -> Joint:
    """The joint experiment of a family whose pixel noise covers a residual, for every β of a region.

    A ball is covered by its smallest box.

    Raises:
        NotApplicable: a transformation whose effect on a residual is not known, or a law that does not merge with it.
        UserError: no pixel noise; a residual that is not a number >= 0.
    """
    size = _size(residual, family.pixel_noise)
    transform, merged = _joint_transform(family.transform)
    laws: dict[str, Law] = dict(family.laws)
    if not merged:
        family = SmoothedFamily(transform, {**laws, RESIDUAL: STANDARD_NORMAL}, family.image_size)
    else:
        scale = laws["brightness"].gaussian_scale
        if scale is None:
            raise NotApplicable(
                f"brightness={laws['brightness']!r} after a contrast does not merge with a residual; use Normal"
            )
        family = SmoothedFamily(transform, laws, family.image_size)
    moved: dict[float, float] = {}

    def effective(b: float) -> float:
        both = math.hypot(b, scale * size) * (1 + 1e-15)  # type: ignore[operator]
        moved[both] = b
        return both

    if isinstance(region, Points):
        if merged:
            points = [{**point, "brightness": effective(point.get("brightness", 0.0))} for point in region.points]
        else:
            points = [{**point, RESIDUAL: size} for point in region.points]
        return Joint(family, Points(points), moved)
    intervals = dict(region.box(dict.fromkeys(family.parameters, 0.0)).intervals)
    if merged:
        low, high = intervals.get("brightness", (0.0, 0.0))
        # Given the contrast, what is moved further is easier to tell apart.
        furthest = effective(max((low, high), key=abs))
        intervals["brightness"] = (furthest, furthest)
    else:
        intervals[RESIDUAL] = (size, size)
    return Joint(family, Box(**intervals), moved)


@lru_cache(maxsize=64)
def _joint_transform(transform: ResolvableTransform) -> tuple[_Beside, bool]:
    """The transformation with a residual; does this merge with the brightness?"""
    if not transform.resolvable:
        raise NotApplicable(f"{transform!r} is only approximately resolvable, so it is never certified")
    factors: list[Factor] = []
    carried = merged = False
    for part in _parts(transform):
        if type(part) not in (Identity, Brightness, Translation, GaussianBlur, Contrast, ContrastBrightness):
            raise NotApplicable(
                f"nothing is known of how far {part!r} moves two images apart, so it is not certified with a residual; "
                "brightness, contrast, translation, blur and their compositions are"
            )
        for factor in part.factors or ():
            if isinstance(factor, Scale):
                factors.append(ScaleThenShift(factor.name, RESIDUAL))
                carried = True
            elif isinstance(factor, ScaleThenShift):
                factors.append(factor)
                carried = merged = True
            elif isinstance(factor, ShiftThenScale):
                factors.append(ShiftThenScaleBeside(factor.scale, factor.shift, RESIDUAL))
                carried = True
            else:
                assert isinstance(factor, Shift)
                factors.append(factor)
    if not carried:
        factors.append(Shift(RESIDUAL))
    return _Beside(tuple(factors)), merged


def _parts(transform: ResolvableTransform) -> list[ResolvableTransform]:
    """What a composition of our own is made of, last parts of parts."""
    known = (*BUILTIN.values(), Composition)
    if isinstance(transform, Composition) and type(transform) in known:
        return [inner for part in transform.parts for inner in _parts(part)]
    return [transform]
